import importlib
from typing import Any

import pytest
from click.testing import CliRunner

from client.fake_server import FakeServer, RunningServer, fall_silent
from hiddenstate.cli import main


def test_the_list_of_commands_cuts_no_help_short() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "Ask whether the server is ready." in result.stdout
    assert "..." not in result.stdout.split("Ask a server:")[1]


@pytest.mark.parametrize(
    ("command", "extra", "target"),
    [("serve", "server", "serve"), ("top", "top", "serve"), ("train", "exporter", "exporter")],
)
def test_a_missing_extra_is_told_for_pip_and_for_a_checkout(
    monkeypatch: pytest.MonkeyPatch, command: str, extra: str, target: str
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    monkeypatch.setattr(importlib, "import_module", missing)
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: `hiddenstate {command}` comes with the extra {extra}, which is not installed (there is no onnx): "
        f"pip install 'hiddenstate[{extra}]', or in a checkout: make {target}\n"
    )


@pytest.mark.parametrize("timeout_s", ["0", "-1", "nan", "x"])
def test_a_time_limit_that_is_no_time_is_told_with_its_option(timeout_s: str) -> None:
    result = CliRunner().invoke(main, ["predict", "I", "--timeout-s", timeout_s])
    assert result.exit_code == 2
    assert "Invalid value for '--timeout-s'" in result.stderr


def test_too_short_a_time_is_told_with_the_option_that_allows_more(server: RunningServer, fake: FakeServer) -> None:
    fall_silent(fake)
    result = CliRunner().invoke(main, ["predict", "I", "--server", server.address, "--timeout-s", "0.05"])
    assert result.exit_code == 1
    assert result.stderr.endswith("allow more with --timeout-s\n")
