"""Where the command begins: what Ctrl-C does before the package is loaded."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CLI = """
import signal, sys
print("loading", flush=True)
sys.stdin.readline()

def main():
    print(signal.getsignal(signal.SIGINT))
"""


@pytest.fixture
def loading(tmp_path: Path) -> "subprocess.Popen[str]":
    """The command, which loads a package that takes its time: until a line is written to it."""
    package = tmp_path / "hiddenstate" / "cli.py"
    package.parent.mkdir()
    package.write_text(CLI)
    (package.parent / "__init__.py").touch()
    code = f"import sys; import hiddenstate_command; sys.path.insert(0, {str(tmp_path)!r}); hiddenstate_command.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "loading\n"
    return process


def test_ctrl_c_while_the_package_loads_shows_no_traceback(loading: "subprocess.Popen[str]") -> None:
    loading.send_signal(signal.SIGINT)
    assert loading.communicate() == ("", "")
    assert loading.returncode == -signal.SIGINT


def test_the_command_itself_sees_ctrl_c_as_it_would_without(loading: "subprocess.Popen[str]") -> None:
    assert loading.communicate("\n") == (f"{signal.default_int_handler}\n", "")
