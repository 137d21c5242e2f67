"""The load generator: a process of its own that puts one kind of load on a server and prints what it measured."""

import dataclasses
import json
import sys
from typing import Literal

from benchmarks.processes import output
from benchmarks.samples import Measured

Kind = Literal[
    "encode", "infer", "predict", "score", "http", "tasks", "threads", "bulk", "contexts", "encode-stream", "hold"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What to ask of whom."""

    kind: Kind
    address: str
    server_pid: int  # whose processor time and memory count as the server's
    callers: int = 1  # at a time; contexts of streams, all of them together
    seconds: float = 2.0
    warm_up_s: float = 0.7
    seed: int = 1
    part: int = 0  # of the words that end predicted contexts, so that no part's contexts were seen before
    parts: int = 1
    num_words: int = 1  # of a predicted or scored context; all but the last are the same and seen before
    vocab_size: int = 20_000
    per_s: float = 0.0  # calls begun each second, whether or not others have ended; 0 keeps `callers` busy
    timeout_s: float | None = None
    sentences: int = 20_000  # of a bulk
    streams: int = 1
    keep: bool = True  # contexts of `hold`: on their streams, else in the prefix-state cache
    top_k: int = 5


def measure(load: Load) -> Measured:
    """Runs a load in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load_process", json.dumps(dataclasses.asdict(load))]
    return Measured(**json.loads(output(command, timeout_s=120 + load.seconds * 3)))
