"""The standard health service: of the server as a whole (""), of each service and of each model by its name."""

import asyncio
from collections.abc import Collection, Iterable

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from hiddenstate_server.repository.repository import SOURCE_NAME

HEALTH_SERVICE = health.SERVICE_NAME


async def add_health(
    server: grpc.aio.Server, services: Iterable[str], models: Collection[str]
) -> health.aio.HealthServicer:
    """Adds a servicer that says SERVING of the server, each service and each model, until its graceful shutdown begins.

    Where there is no model yet, the server and its services are not ready; the source of models is.
    """
    servicer = health.aio.HealthServicer()
    await servicer.set(SOURCE_NAME, HealthCheckResponse.SERVING)
    for name in ("", *services, *models):
        await servicer.set(name, _status(bool(models)))
    add_HealthServicer_to_server(servicer, server)
    return servicer


class ModelHealth:
    """Says of each model whether it is served. Belongs to the event loop."""

    def __init__(self, servicer: health.aio.HealthServicer, services: Collection[str]) -> None:
        """`services` and the server as a whole wait for the first model; none do where there is one."""
        self._servicer = servicer
        self._waiting = ("", *services) if services else ()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, name: str, is_served: bool) -> None:
        """Tells it, also to those who watch. Does nothing once the graceful shutdown has begun."""
        names = [name]
        if is_served and name != SOURCE_NAME:
            names += self._waiting
            self._waiting = ()
        for each in names:
            task = asyncio.create_task(self._servicer.set(each, _status(is_served)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def _status(is_served: bool) -> int:
    return HealthCheckResponse.SERVING if is_served else HealthCheckResponse.NOT_SERVING
