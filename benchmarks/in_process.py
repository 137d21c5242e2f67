"""What the same graphs do in a loop, without a server: the bound for anything that serves them.

Started by the benchmarks as `python -m benchmarks.in_process JSON`; the JSON is a `Loop`. All cores are used in the way
that is best: one session with a thread for each core, or a session for each core in a thread of its own. The sessions
are plain ONNX Runtime ones, so that the bound does not hang on how the server runs them.
"""

import dataclasses
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.bundles import bundle_folder
from benchmarks.processes import output
from benchmarks.texts import LENGTH, natural_lengths
from hiddenstate_server.bundle import Bundle, VariantName, load_bundle

_WARM_UP_S = 0.3
_TEXTS = 4096  # different ones
_TRIED_SHARE = 10  # a plan for a bulk is tried on every so many-th sentence

Ids = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """What to run in a loop."""

    kind: Literal["encode", "bulk", "step"]
    models: str
    variant: VariantName = "fp32"
    batch_sizes: tuple[int, ...] = (32,)
    batch_tokens: tuple[int, ...] = ()  # of a bulk: batches with so many tokens, padding included, are tried too
    layouts: tuple[tuple[int, int], ...] = ((1, 2), (2, 1))  # (sessions, threads of each)
    seconds: float = 1.0
    seed: int = 1
    sentences: int = 20_000  # of a bulk
    sort: bool = True
    top_k: int = 5


@dataclasses.dataclass(frozen=True)
class Bound:
    """The best that was found."""

    per_s: float
    how: str


def measure(loop: Loop) -> Bound:
    """Runs a loop in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.in_process", json.dumps(dataclasses.asdict(loop))]
    return Bound(**json.loads(output(command, timeout_s=300)))


def _best(loop: Loop) -> Bound:
    best = _best_bulk if loop.kind == "bulk" else _best_loop
    return max((best(loop, *layout) for layout in loop.layouts), key=lambda bound: bound.per_s)


def _best_loop(loop: Loop, sessions: int, threads: int) -> Bound:
    """Returns the best of the batch sizes, each for so many seconds."""
    models = [_Model(loop, threads) for _ in range(sessions)]
    return max(
        (
            Bound(_rate(loop, [model.repeat(batch_size) for model in models]), f"{sessions}x{threads}, {batch_size}")
            for batch_size in loop.batch_sizes
        ),
        key=lambda bound: bound.per_s,
    )


def _rate(loop: Loop, runs: Sequence[Callable[[], int]]) -> float:
    """Returns rows per second of all sessions together."""
    counts, barrier = [0] * len(runs), threading.Barrier(len(runs))

    def work(number: int) -> None:
        until = time.perf_counter() + _WARM_UP_S
        while time.perf_counter() < until:
            runs[number]()
        barrier.wait()
        until = time.perf_counter() + loop.seconds
        while time.perf_counter() < until:
            counts[number] += runs[number]()

    seconds = _in_threads(work, len(runs)) - _WARM_UP_S
    return sum(counts) / seconds


def _best_bulk(loop: Loop, sessions: int, threads: int) -> Bound:
    """Returns the rate of the best plan over all sentences, chosen on some of them."""
    models = [_Model(loop, threads) for _ in range(sessions)]
    lengths = natural_lengths(loop.sentences, loop.seed)
    sample = lengths[::_TRIED_SHARE]
    _pass(models, _batches(sample[:256], loop.sort, 32, None))
    plans: list[tuple[int, int | None]] = [(rows, None) for rows in loop.batch_sizes]
    plans += [(256, tokens) for tokens in loop.batch_tokens]
    plan = max(plans, key=lambda plan: _pass(models, _batches(sample, loop.sort, *plan)))
    how = f"{plan[0]} rows" if plan[1] is None else f"{plan[1]} tokens"
    return Bound(_pass(models, _batches(lengths, loop.sort, *plan)), f"{sessions}x{threads}, {how}")


def _batches(lengths: Sequence[int], sort: bool, most_rows: int, most_tokens: int | None) -> list[list[int]]:
    """Cuts sentences into batches, the longest first, so that no long one is left for the end."""
    batches: list[list[int]] = [[]]
    for length in sorted(lengths, reverse=True) if sort else lengths:
        batch = batches[-1]
        padded = max([length, *batch[:1]]) * (len(batch) + 1)
        if len(batch) == most_rows or (batch and most_tokens is not None and padded > most_tokens):
            batches.append(batch := [])
        batch.append(length)
    return batches


def _pass(models: Sequence["_Model"], batches: Sequence[list[int]]) -> float:
    """Returns sentences per second when every session takes the next batch as soon as it is free."""
    left, lock = iter(batches), threading.Lock()

    def work(number: int) -> None:
        while True:
            with lock:
                batch = next(left, None)
            if batch is None:
                return
            models[number].encode(batch)

    return sum(map(len, batches)) / _in_threads(work, len(models))


def _in_threads(work: Callable[[int], None], count: int) -> float:
    """Runs a function in each of some threads and returns the seconds until all have ended."""
    workers = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - begun


class _Model:
    """Sessions of one bundle's graphs."""

    def __init__(self, loop: Loop, threads: int) -> None:
        folder = bundle_folder(Path(loop.models))
        self._bundle: Bundle = load_bundle(folder)
        self._loop = loop
        self._rng = np.random.default_rng(loop.seed)
        graphs = self._bundle.variants[loop.variant].graphs
        self._sessions = {name: _session(folder / file, threads) for name, file in graphs.items()}

    def repeat(self, batch_size: int) -> Callable[[], int]:
        """Returns a function that runs one batch and returns its rows."""
        return self._step(batch_size) if self._loop.kind == "step" else self._encode(batch_size)

    def encode(self, lengths: Sequence[int]) -> None:
        """Encodes sentences of random words."""
        sizes = np.array(lengths, dtype=np.int32)
        tokens = self._rng.integers(2, self._bundle.vocab_size, (len(sizes), sizes.max()))
        self._sessions["encoder"].run(["embeddings"], {"tokens": tokens, "lengths": sizes})

    def _encode(self, batch_size: int) -> Callable[[], int]:
        batches = self._draw(batch_size, LENGTH)
        lengths = np.full(batch_size, LENGTH, dtype=np.int32)

        def run() -> int:
            self._sessions["encoder"].run(["embeddings"], {"tokens": next(batches), "lengths": lengths})
            return batch_size

        return run

    def _draw(self, batch_size: int, length: int) -> Iterator[Ids]:
        """Yields tokens [batch, length] for ever, as different as those of the loads."""
        pool = self._rng.integers(2, self._bundle.vocab_size, (_TEXTS // batch_size, batch_size, length))
        return itertools.cycle(pool)

    def _step(self, batch_size: int) -> Callable[[], int]:
        assert self._bundle.language_model
        batches = self._draw(batch_size, 1)
        lengths = np.ones(batch_size, dtype=np.int32)
        state = np.zeros((batch_size, self._bundle.language_model.state_size), dtype=np.float32)
        zeros = np.zeros(batch_size, dtype=np.int64)
        head = {"k": np.array([self._loop.top_k], dtype=np.int64), "targets": zeros, "restrict": np.array(False)}
        head |= {"rank_low": zeros, "rank_high": zeros}

        def run() -> int:
            nonlocal state
            feed = {"tokens": next(batches), "lengths": lengths, "state": state}
            outputs, state = self._sessions["recurrent"].run(["outputs", "next_state"], feed)
            self._sessions["head"].run(["top_log_probs", "top_ids"], {"hidden": outputs[:, -1], **head})
            return batch_size

        return run


def _session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Runs the loop that the command line names."""
    print(json.dumps(dataclasses.asdict(_best(Loop(**json.loads(sys.argv[1]))))))


if __name__ == "__main__":
    main()
