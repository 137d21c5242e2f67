"""The standard health service: of the server as a whole (""), of each service and of each model by its name."""

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

HEALTH_SERVICE = health.SERVICE_NAME


async def add_health(server: grpc.aio.Server, names: Iterable[str]) -> health.aio.HealthServicer:
    """Adds a servicer that says SERVING of the server and each name, until its graceful shutdown begins."""
    servicer = health.aio.HealthServicer()
    for name in ("", *names):
        await servicer.set(name, HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(servicer, server)
    return servicer


class ModelHealth:
    """Says of each model whether it is served. Belongs to the event loop."""

    def __init__(self, servicer: health.aio.HealthServicer) -> None:
        self._servicer = servicer
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, name: str, is_served: bool) -> None:
        """Tells it, also to those who watch. Does nothing once the graceful shutdown has begun."""
        status = HealthCheckResponse.SERVING if is_served else HealthCheckResponse.NOT_SERVING
        task = asyncio.create_task(self._servicer.set(name, status))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
