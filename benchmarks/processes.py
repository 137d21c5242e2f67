"""Processes that a benchmark starts, and ends again: nothing else is ever signalled."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_STOP_S = 10.0


class Serving(NamedTuple):
    """A server that is up."""

    address: str
    pid: int
    metrics: str = ""  # HOST:PORT of its metrics page


@contextmanager
def server(command: Sequence[str], **environment: str) -> Iterator[Serving]:
    """Starts a server that prints a line with ` on HOST:PORT` once it serves, and ends it with the block."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, env=_environment(environment), cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.search(r" on ([^\s,]+)", line)
            if not found:
                log.seek(0)
                raise RuntimeError(f"{command} did not say where it serves, but: {line}{log.read()}")
            page = re.search(r"http://([^/\s]+)/metrics", line)
            yield Serving(found[1], process.pid, page[1] if page else "")
        finally:
            _stop(process)


def hiddenstate(models: Path, *options: str, interpreted: bool = False) -> AbstractContextManager[Serving]:
    """Starts `hiddenstate serve` on a free port; `interpreted` has it run sources where there are compiled modules."""
    command = "from benchmarks.cpu import name_threads; name_threads(); from hiddenstate.cli import main; main()"
    if interpreted:
        command = (
            f"import sys; sys.path.append('tests'); from interpreted import prefer_sources; prefer_sources(); {command}"
        )
    arguments = ["serve", "--models", str(models)]
    return server(
        [sys.executable, "-c", command, *arguments, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *options]
    )


def output(command: Sequence[str], timeout_s: float, **environment: str) -> str:
    """Runs a command to its end and returns what it printed."""
    result = subprocess.run(
        command,
        env=_environment(environment),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
        check=True,
    )
    return result.stdout


def resident_bytes(pid: int) -> int:
    """Returns the memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _environment(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "ORT_DISABLE_TELEMETRY": "1", **more}


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
