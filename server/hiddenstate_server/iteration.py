"""One iteration of a language model: a batch of contexts, each a chunk further."""

import time
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.binding import Outputs
from hiddenstate_server.head_output import HeadOutput
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.runner import LanguageModelRunner
from hiddenstate_server.sequence import Sequence

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class Iteration:
    """The scheduler's step for language models. Runner threads may call it at the same time."""

    __slots__ = ("_heads", "_recurrent", "_runner", "_vocab_size")

    def __init__(
        self, runner: LanguageModelRunner, *, vocab_size: int, model: str, version: str, metrics: Metrics
    ) -> None:
        self._runner = runner
        self._vocab_size = vocab_size
        self._recurrent = metrics.of_batches(model, version, "recurrent")
        self._heads = metrics.of_batches(model, version, "head")

    def run(self, batch: SequenceOf[Sequence]) -> list[Sequence]:
        """Consumes one chunk of each sequence (all of one size, or none), and answers those that ask the head."""
        consuming = [sequence for sequence in batch if sequence.chunk]
        outputs = self._recur(consuming) if consuming else None
        asks, asked = [], 0
        for sequence in batch:
            rows = sequence.asks()
            asks.append(rows)
            asked += rows
        answer = self._ask(batch, asks, outputs) if asked else _NOTHING
        news, row = [], 0
        for sequence, rows in zip(batch, asks, strict=True):
            if sequence.receive(answer, row):
                news.append(sequence)
            row += rows
        return news

    def _recur(self, batch: list[Sequence]) -> Outputs:
        """Returns the outputs [batch, chunk, output_size] of the sequences that consume something."""
        started_at, chunk = time.perf_counter(), batch[0].chunk
        tokens, states = [], []
        for sequence in batch:
            tokens.append(sequence.tokens[sequence.position : sequence.position + chunk])
            states.append(sequence.state)
        state = np.frombuffer(b"".join(states), dtype=np.float32).reshape(len(batch), -1)
        outputs, next_state = self._runner.recur(np.array(tokens, dtype=np.int64), state)
        rows, size = next_state.data.cast("B", (next_state.nbytes,)), next_state.strides[0]
        for row, sequence in enumerate(batch):
            sequence.consume(bytes(rows[row * size : (row + 1) * size]))
        consumed, seconds = len(batch) * chunk, time.perf_counter() - started_at
        self._recurrent.run(rows=len(batch), tokens=consumed, padded_tokens=consumed, seconds=seconds)
        return outputs

    def _ask(self, batch: SequenceOf[Sequence], asks: list[int], outputs: Outputs | None) -> HeadOutput:
        started_at = time.perf_counter()
        k, ones, has_targets = 1, 0, False
        for sequence, rows in zip(batch, asks, strict=True):
            ones += rows == 1
            if rows:
                k = max(k, sequence.k)
                has_targets = has_targets or sequence.has_targets
        hidden: Outputs | Floats
        if outputs is not None and len(outputs) == len(batch) == ones:
            hidden = outputs.last()  # each asks for what follows its last token: no row has to be looked for
        else:
            hidden = _hidden(batch, asks, outputs, self._runner)
        answer = self._runner.head(
            hidden,
            k=min(self._vocab_size, k),
            targets=_targets(batch, asks) if has_targets else None,
            ranks=self._ranks(batch, asks),
        )
        asked, seconds = len(hidden), time.perf_counter() - started_at
        self._heads.run(rows=asked, tokens=asked, padded_tokens=asked, seconds=seconds)
        return answer

    def _ranks(self, batch: SequenceOf[Sequence], asks: list[int]) -> Ids | None:
        for sequence in batch:
            if sequence.ranks is not None:
                break
        else:
            return None
        anything = (-1, self._vocab_size)  # special tokens have rank -1
        return np.array(
            [sequence.ranks or anything for sequence, rows in zip(batch, asks, strict=True) for _ in range(rows)],
            dtype=np.int64,
        )  # [rows, 2]


def _targets(batch: SequenceOf[Sequence], asks: list[int]) -> Ids:
    """Returns a target for each row that is asked for [rows]."""
    targets: list[int] = []
    for sequence, rows in zip(batch, asks, strict=True):
        if rows:
            targets += sequence.head_targets()
    return np.array(targets, dtype=np.int64)


def _hidden(
    batch: SequenceOf[Sequence], asks: list[int], outputs: Outputs | None, runner: LanguageModelRunner
) -> Floats:
    """Returns the last outputs of those that ask [rows, output_size]; the state holds the very last."""
    spec, found, at = runner.spec, [], 0
    for sequence, rows in zip(batch, asks, strict=True):
        if sequence.chunk:
            assert outputs is not None
            if rows:
                found.append(outputs.array()[at, -rows:])
            at += 1
        elif rows:
            state = np.frombuffer(sequence.state, dtype=np.float32)[np.newaxis]
            found.append(state[:, spec.output_offset : spec.output_offset + spec.output_size])
    return np.concatenate(found)


_NOTHING = HeadOutput(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64), np.zeros(0, np.float32))
