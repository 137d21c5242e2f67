"""What a server does during a load: py-spy looks at its Python threads from outside, without stopping them.

Compiled code counts as the Python function that called it: gRPC's and the event loop's as `Runner.run`. To see into it
(py-spy --native) costs so much that the server does little else. `--threads` tells what gRPC's own threads use.
"""

import dataclasses
import itertools
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.load import Load
from benchmarks.samples import Measured

_SAMPLES_PER_S = 200
_SHOWN = 25
_COUNT = re.compile(r"^(?P<frames>.*) (?P<count>\d+)$")


@dataclasses.dataclass(frozen=True)
class Profile:
    """Writes the stacks of each load into a folder and prints where the time went."""

    py_spy: Path
    folder: Path
    tell: Callable[[str], None]
    _numbers: Iterable[int] = dataclasses.field(default_factory=itertools.count)

    def during(self, load: Load, run: Callable[[], Measured]) -> Measured:
        """Runs a load and looks at its server meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{load.kind}-{next(iter(self._numbers))}.txt"
        seconds = max(1, round(load.seconds + load.warm_up_s))
        command = [str(self.py_spy), "record", "--nonblocking", "--threads", "--format", "raw", "--output", str(file)]
        options = ["--rate", str(_SAMPLES_PER_S), "--duration", str(seconds), "--pid", str(load.server_pid)]
        with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as spy:
            measured = run()
            _, errors = spy.communicate(timeout=30)
        if spy.returncode:
            raise RuntimeError(f"py-spy: {errors.decode(errors='replace').strip()}")
        self.tell(f"{load.kind} with {load.callers} callers, {seconds} s: {file}\n{_top(file)}\n")
        return measured


def _top(file: Path) -> str:
    """Returns the functions in which threads were most often, as shares of all samples that found one working."""
    where: Counter[str] = Counter()
    for line in file.read_text(encoding="utf-8").splitlines():
        found = _COUNT.match(line)
        if found:
            frames = found["frames"].split(";")
            where[f"{frames[0]:40} {frames[-1]}"] += int(found["count"])
    total = max(1, sum(where.values()))
    return "\n".join(f"{count / total:6.1%}  {name}" for name, count in where.most_common(_SHOWN))
