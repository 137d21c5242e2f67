"""What the same graphs do in a loop, without a server: the bound for anything that serves them.

Started by the benchmarks as `python -m benchmarks.in_process JSON`; the JSON is a `Loop`. Both cores are used in the
way that is best: one session with a thread for each core, or a session for each core in a thread of its own.
"""

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.bundles import bundle_folder
from benchmarks.processes import output
from benchmarks.texts import LENGTH, natural_sentences
from hiddenstate_server.bundle import VariantName, load_bundle
from hiddenstate_server.providers import CPU, Provider
from hiddenstate_server.runner import EncoderRunner, LanguageModelRunner

_WARM_UP_S = 0.3
_CPU = Provider(name=CPU, reason="as asked")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """What to run in a loop."""

    kind: Literal["encode", "bulk", "step"]
    models: str
    variant: VariantName = "fp32"
    batch_sizes: tuple[int, ...] = (32,)
    layouts: tuple[tuple[int, int], ...] = ((1, 2), (2, 1))  # (sessions, threads of each)
    seconds: float = 1.0
    seed: int = 1
    sentences: int = 4_000
    sort: bool = True
    top_k: int = 5


@dataclasses.dataclass(frozen=True)
class Bound:
    """The best that was found."""

    per_s: float
    batch_size: int
    sessions: int
    threads: int


def measure(loop: Loop) -> Bound:
    """Runs a loop in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.in_process", json.dumps(dataclasses.asdict(loop))]
    return Bound(**json.loads(output(command, timeout_s=300)))


def _best(loop: Loop) -> Bound:
    return max(
        (
            Bound(_rate(loop, batch_size, sessions, threads), batch_size, sessions, threads)
            for sessions, threads in loop.layouts
            for batch_size in loop.batch_sizes
        ),
        key=lambda bound: bound.per_s,
    )


def _rate(loop: Loop, batch_size: int, sessions: int, threads: int) -> float:
    """Returns rows per second of all sessions together."""
    runs = [_run_of(loop, batch_size, threads, number) for number in range(sessions)]
    counts, barrier = [0] * sessions, threading.Barrier(sessions)

    def work(number: int) -> None:
        until = time.perf_counter() + _WARM_UP_S
        while time.perf_counter() < until:
            runs[number]()
        barrier.wait()
        until = time.perf_counter() + loop.seconds
        while time.perf_counter() < until:
            counts[number] += runs[number]()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(sessions)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - begun - _WARM_UP_S)


def _run_of(loop: Loop, batch_size: int, threads: int, number: int) -> Callable[[], int]:
    """Returns a function that runs one batch and returns its rows."""
    folder = bundle_folder(Path(loop.models))
    bundle, rng = load_bundle(folder), np.random.default_rng(loop.seed + number)
    if loop.kind == "step":
        return _step(
            LanguageModelRunner(bundle, folder, variant=loop.variant, provider=_CPU, threads=threads),
            loop,
            batch_size,
            rng,
        )
    runner = EncoderRunner(bundle, folder, variant=loop.variant, provider=_CPU, threads=threads)
    if loop.kind == "bulk":
        return _bulk(runner, loop, batch_size, rng)
    tokens = rng.integers(2, bundle.vocab_size, (batch_size, LENGTH))
    lengths = np.full(batch_size, LENGTH, dtype=np.int32)

    def run() -> int:
        runner.encode(tokens, lengths)
        return batch_size

    return run


def _bulk(runner: EncoderRunner, loop: Loop, batch_size: int, rng: np.random.Generator) -> Callable[[], int]:
    sizes = [len(text.split()) for text in natural_sentences(loop.sentences, loop.seed)]
    if loop.sort:
        sizes.sort()
    rows = [rng.integers(2, 20_000, size) for size in sizes]
    batches, at = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)], 0

    def run() -> int:
        nonlocal at
        batch = batches[at % len(batches)]
        at += 1 if not loop.sort else _STRIDE  # lengths in an order that repeats soon, so that a second has all
        lengths = np.array([len(row) for row in batch], dtype=np.int32)
        tokens = np.zeros((len(batch), lengths.max()), dtype=np.int64)
        for line, row in zip(tokens, batch, strict=True):
            line[: len(row)] = row
        runner.encode(tokens, lengths)
        return len(batch)

    return run


_STRIDE = 7


def _step(runner: LanguageModelRunner, loop: Loop, batch_size: int, rng: np.random.Generator) -> Callable[[], int]:
    spec = runner.spec
    tokens = rng.integers(2, 500, (batch_size, 1))
    state = np.zeros((batch_size, spec.state_size), dtype=np.float32)
    targets = np.zeros(batch_size, dtype=np.int64)

    def run() -> int:
        nonlocal state
        outputs, state = runner.recur(tokens, state)
        runner.head(outputs[:, -1], k=loop.top_k + 2, targets=targets, ranks=None)
        return batch_size

    return run


def main() -> None:
    """Runs the loop that the command line names."""
    print(json.dumps(dataclasses.asdict(_best(Loop(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
