"""The folder of the models vanishes and comes back: what is served goes on, and health and index tell of it.

PYTHONPATH=tests python -m chaos.lost_models
"""

import tempfile
from pathlib import Path
from typing import Any

import click
import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from bundles import language_model_bundle
from hiddenstate import Client
from hiddenstate_server.inference.open_inference_pb2 import RepositoryIndexRequest
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serve_process import WAIT_S, ServeProcess, serve

_POLL = ("--watch-models", "poll", "--poll-interval-s", "1")


def lose(models: Path) -> str:
    """Takes the folder away from a server and gives it back; returns what the server had to say of it.

    Raises:
        AssertionError: something was lost, or not told.
    """
    models.mkdir()
    language_model_bundle(models)
    elsewhere = models.with_name("elsewhere")
    with serve(models, *_POLL) as server, Client(server.address) as client:
        assert is_readable(server)
        models.rename(elsewhere)
        while server.metric("hiddenstate_model_load_failures_total", 'reason="unreadable"') < 3:
            assert client.predict("I").candidates
        assert not is_readable(server)
        assert is_serving(server, "")  # a balancer shall not take it away
        reason = "the repository: cannot be read: No such file or directory"  # not where that is
        assert index(server) == {"tiny-lm": f"READY: goes on as it was loaded: {reason}"}
        elsewhere.rename(models)
        lines = server.logged_until(f"--models {models}: can be read again")
        while not is_readable(server):
            pass
        assert index(server) == {"tiny-lm": "READY: "}
    (told,) = [line for line in lines if "what is served stays as it is" in line]
    return told.strip()


def is_serving(server: ServeProcess, service: str) -> bool:
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = HealthStub(channel)  # its stubs have no methods
        response = stub.Check(HealthCheckRequest(service=service), timeout=WAIT_S)
    return bool(response.status == HealthCheckResponse.SERVING)


def is_readable(server: ServeProcess) -> bool:
    return is_serving(server, "hiddenstate.repository")


def index(server: ServeProcess) -> dict[str, str]:
    """Returns the state and the reason of each model."""
    with grpc.insecure_channel(server.address) as channel:
        response = GRPCInferenceServiceStub(channel).RepositoryIndex(RepositoryIndexRequest(), timeout=WAIT_S)
    return {each.name: f"{each.state}: {each.reason}" for each in response.models}


@click.command()
def main() -> None:
    """Take the models' folder away, and give it back."""
    with tempfile.TemporaryDirectory() as folder:
        click.echo(lose(Path(folder, "models")))


if __name__ == "__main__":
    main()
