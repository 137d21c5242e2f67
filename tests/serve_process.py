"""`hiddenstate serve` in a process of its own."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 60.0
PORT_IN_USE = "end what listens there, or choose another port (0 takes a free one)"
COMMAND = (sys.executable, "-c", "from hiddenstate.cli import main; main()", "serve")


class ServeProcess:
    """A running `hiddenstate serve`."""

    def __init__(self, process: "subprocess.Popen[str]", models: Path) -> None:
        self.models = models
        self._process = process
        assert process.stdout
        self.announcement = (process.stdout.readline(), process.stdout.readline())
        found = re.search(r" on (\S+), ", self.announcement[0])
        assert found, f"no address in {self.announcement}: {self._end()} (exit code {self._process.returncode})"
        self.address = found[1]
        self._silence = threading.Event()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def workers(self) -> set[int]:
        """Returns the processes that it has started and that still run."""
        lists = Path(f"/proc/{self.pid}/task").glob("*/children")
        return {int(pid) for each in lists for pid in each.read_text(encoding="ascii").split()}

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def logged(self, part: str) -> str:
        """Waits for a log line that has `part` and returns it."""
        return self.logged_until(part)[-1]

    def logged_until(self, part: str) -> list[str]:
        """Waits for a log line that has `part` and returns it, after those before it that nobody has waited for."""
        lines = [""]
        while part not in lines[-1]:
            lines.append(self._lines.get(timeout=WAIT_S))
        return lines[1:]

    def metric(self, name: str, *labels: str) -> float:
        """Returns the sum of a metric's samples that have all of these labels, each as NAME="VALUE"."""
        with urllib.request.urlopen(self.announcement[0].split()[-1], timeout=WAIT_S) as response:
            lines = response.read().decode().splitlines()
        found = [line for line in lines if re.match(rf"{name}[ {{]", line) and all(each in line for each in labels)]
        return sum(float(line.split()[-1]) for line in found)

    def exit_code(self) -> int:
        """Waits for the process to end."""
        return self._process.wait(WAIT_S)

    def all_ended(self) -> bool:
        """Waits until no process is left that could log a line."""
        return self._silence.wait(WAIT_S)

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._lines.put(line)
        self._silence.set()

    def _end(self) -> str:
        self._process.kill()
        return self._process.communicate()[1]


@contextmanager
def serve(models: Path | str, *arguments: str, **environment: str) -> Iterator[ServeProcess]:
    """Starts the server on free ports and kills it at the end of the block if it still runs."""
    settings = {"HIDDENSTATE_LISTEN": "127.0.0.1:0", "HIDDENSTATE_METRICS": "127.0.0.1:0", **environment}
    with subprocess.Popen(
        [*COMMAND, "--models", str(models), *arguments],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        server = None
        try:
            yield (server := ServeProcess(process, Path(models)))
        finally:
            process.kill()
            if server:
                server.all_ended()  # the pipe must not be closed while it is read


def failed_serve(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs a server that is expected not to start."""
    command, variables = [*COMMAND, *arguments], {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=WAIT_S, check=False)
