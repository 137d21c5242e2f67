"""Environment variables that look like settings: those that nothing reads are told, those of others are not."""

import click
import pytest

from hiddenstate.cli.connecting import server_options
from hiddenstate_server.cli import serve
from hiddenstate_server.environment import strays


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("HIDDENSTATE_MAX_BATCHES", "HIDDENSTATE_MAX_BATCH"),
        ("HIDDENSTATE_LISTN", "HIDDENSTATE_LISTEN"),
        ("HIDDENSTATE_LOGFORMAT", "HIDDENSTATE_LOG_FORMAT"),
        ("HIDDENSTATE_METRICS_PORT", "HIDDENSTATE_METRICS"),
        ("HIDDENSTATE_MAX_BATCH_SIZE", "HIDDENSTATE_MAX_BATCH"),
        ("HIDDENSTATE_Listen", "HIDDENSTATE_LISTEN"),
        ("hiddenstate_listen", "HIDDENSTATE_LISTEN"),
        ("HIDDENSTATE_XYZZY", None),
        ("HIDDENSTATE_PORT", "HIDDENSTATE_LISTEN"),
        ("HIDDENSTATE_", None),
    ],
)
def test_a_variable_that_is_no_setting_is_told_with_the_nearest_one(variable: str, meant: str | None) -> None:
    assert list(strays({variable: "8080"})) == [(variable, meant)]


@pytest.mark.parametrize("service", ["HIDDENSTATE", "HIDDENSTATE_CANARY", "HIDDENSTATE_METRICS"])
def test_what_kubernetes_sets_for_a_service_is_no_setting_that_is_missed(service: str) -> None:
    host, port = "10.96.0.7", "50051"
    environment = {
        f"{service}_SERVICE_HOST": host,
        f"{service}_SERVICE_PORT": port,
        f"{service}_SERVICE_PORT_GRPC": port,
        f"{service}_PORT": f"tcp://{host}:{port}",
        f"{service}_PORT_50051_TCP": f"tcp://{host}:{port}",
        f"{service}_PORT_50051_TCP_PROTO": "tcp",
        f"{service}_PORT_50051_TCP_PORT": port,
        f"{service}_PORT_50051_TCP_ADDR": host,
    }
    assert list(strays(environment)) == []
    assert {option.envvar for option in serve.params}.isdisjoint(environment)


def test_variables_of_settings_of_the_client_and_of_other_programs_are_not_told() -> None:
    asking = click.command()(server_options(lambda **_: None))
    known = [str(parameter.envvar) for command in (serve, asking) for parameter in command.params if parameter.envvar]
    assert len(known) > 60
    others = ["HIDDENSTATE_COMPILE", "HIDDENSTATE_INTERPRETED", "HIDDEN", "PATH"]
    assert list(strays(dict.fromkeys((*known, *others), "1"))) == []
