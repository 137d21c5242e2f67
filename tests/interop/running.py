"""Runs a script of this folder, and the tools that it needs."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from toolbox import SKIPPED, UnavailableError

TIMEOUT_S = 300


def main(script: Callable[[], None]) -> None:
    """Ends the process: 0 if all answers were right, 77 if the tool cannot be had here, else 1."""
    try:
        script()
    except UnavailableError as error:
        print(f"skipped: {error}")
        sys.exit(SKIPPED)
    except AssertionError as error:
        print(f"WRONG: {error}")
        sys.exit(1)


def output_of(
    *command: object, environment: Mapping[str, str] | None = None, folder: str | None = None, fails: bool = False
) -> str:
    """Runs a tool and returns what it wrote, its errors too.

    Raises:
        AssertionError: it failed, or did not where it should.
    """
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert bool(done.returncode) == fails, f"exit code {done.returncode} of {command[0]}:\n{done.stdout}"
    return done.stdout


def check(what: str, found: Any, wanted: Any) -> None:
    """Tells an answer that is right, and fails for one that is not."""
    assert found == wanted, f"{what}: {found!r} instead of {wanted!r}"
    print(f"  {what}: {found!r}")
