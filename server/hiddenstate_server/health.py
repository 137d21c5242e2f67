"""The standard health service: of the server as a whole (""), of each service and of each model by its name."""

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
