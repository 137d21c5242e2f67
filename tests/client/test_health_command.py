from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from client.fake_server import RunningServer
from hiddenstate.cli import main


@pytest.fixture
def servicer() -> HealthServicer:
    return HealthServicer()


@pytest.fixture
def address(servicer: HealthServicer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def health(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["health", "--server", address, *arguments])


def test_a_server_that_serves_is_healthy(servicer: HealthServicer, address: str) -> None:
    servicer.set("", HealthCheckResponse.SERVING)
    result = health(address)
    assert (result.exit_code, result.stdout) == (0, "SERVING\n")


@pytest.mark.parametrize("status", ["UNKNOWN", "NOT_SERVING", "SERVICE_UNKNOWN"])
def test_any_other_status_is_named_and_fails(servicer: HealthServicer, address: str, status: str) -> None:
    servicer.set("", HealthCheckResponse.ServingStatus.Value(status))
    result = health(address)
    assert result.exit_code == 1
    assert f"the server at {address} is {status}" in result.stderr


def test_one_service_can_be_asked_for(servicer: HealthServicer, address: str) -> None:
    servicer.set("", HealthCheckResponse.SERVING)
    servicer.set("some.Service", HealthCheckResponse.NOT_SERVING)
    result = health(address, "--service", "some.Service")
    assert result.exit_code == 1
    assert f"some.Service at {address} is NOT_SERVING" in result.stderr


def test_a_service_that_the_server_does_not_know_fails(servicer: HealthServicer, address: str) -> None:
    servicer.set("", HealthCheckResponse.SERVING)
    result = health(address, "--service", "some.Service")
    assert result.exit_code == 1
    assert f"the server at {address} has no service or model 'some.Service'" in result.stderr
    assert "hiddenstate.v1.LanguageModelService" in result.stderr


def test_where_nothing_listens_is_said_in_one_line() -> None:
    result = health("127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no server answers at 127.0.0.1:1")
    assert result.stderr.count("\n") == 1


def test_a_server_without_the_health_service_is_said_to_be_another(server: RunningServer) -> None:
    result = health(server.address)
    assert result.exit_code == 1
    assert "is no hiddenstate server" in result.stderr
