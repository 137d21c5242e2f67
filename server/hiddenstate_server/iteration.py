"""One iteration of a language model: a batch of contexts, each a chunk further."""

import time
from collections.abc import Sequence as SequenceOf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.metrics import Metrics
from hiddenstate_server.runner import HeadOutput, LanguageModelRunner
from hiddenstate_server.sequence import Sequence

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class Iteration:
    """The scheduler's step for language models. Belongs to the runner thread."""

    def __init__(
        self, runner: LanguageModelRunner, *, vocab_size: int, model: str, version: str, metrics: Metrics
    ) -> None:
        self._runner = runner
        self._vocab_size = vocab_size
        self._labels = {"model": model, "version": version}
        self._metrics = metrics

    def __call__(self, batch: SequenceOf[Sequence]) -> list[Sequence]:
        """Consumes one chunk of each sequence (all of one size, or none), and answers those that ask the head."""
        outputs = self._recur([sequence for sequence in batch if sequence.chunk])
        return self._head(batch, outputs)

    def _recur(self, batch: list[Sequence]) -> dict[Sequence, Floats]:
        """Returns the outputs [chunk, output_size] of each sequence that consumed something."""
        if not batch:
            return {}
        started_at = time.perf_counter()
        tokens = np.stack([s.tokens[s.position : s.position + s.chunk] for s in batch])  # [batch, chunk]
        state = np.stack([s.state for s in batch])  # [batch, state_size]
        outputs, next_state = self._runner.recur(tokens, state)
        for sequence, row in zip(batch, next_state, strict=True):
            sequence.consume(row)
        self._record("recurrent", len(batch), tokens.size, started_at)
        return dict(zip(batch, outputs, strict=True))

    def _head(self, batch: SequenceOf[Sequence], outputs: dict[Sequence, Floats]) -> list[Sequence]:
        targets = [sequence.head_targets() for sequence in batch]
        asking = [(sequence, len(rows)) for sequence, rows in zip(batch, targets, strict=True) if len(rows)]
        answer = self._ask(asking, np.concatenate(targets), outputs) if asking else _NOTHING
        ends = np.cumsum([len(rows) for rows in targets])
        slices = [slice(end - len(rows), end) for end, rows in zip(ends, targets, strict=True)]
        return [
            sequence
            for sequence, rows in zip(batch, slices, strict=True)
            if sequence.receive(answer.top_log_probs[rows], answer.top_ids[rows], answer.target_log_probs[rows])
        ]

    def _ask(self, asking: list[tuple[Sequence, int]], targets: Ids, outputs: dict[Sequence, Floats]) -> HeadOutput:
        started_at = time.perf_counter()
        hidden = np.concatenate([self._hidden(sequence, rows, outputs) for sequence, rows in asking])
        k = min(self._vocab_size, max(1, *(sequence.k for sequence, _ in asking)))
        answer = self._runner.head(hidden, k=k, targets=targets, ranks=self._ranks(asking))
        self._record("head", len(hidden), len(hidden), started_at)
        return answer

    def _hidden(self, sequence: Sequence, rows: int, outputs: dict[Sequence, Floats]) -> Floats:
        """Returns the last outputs of a sequence [rows, output_size]; the state holds the very last."""
        if sequence.chunk:
            return outputs[sequence][-rows:]
        spec = self._runner.spec
        return sequence.state[np.newaxis, spec.output_offset : spec.output_offset + spec.output_size]

    def _ranks(self, asking: list[tuple[Sequence, int]]) -> Ids | None:
        if all(sequence.ranks is None for sequence, _ in asking):
            return None
        anything = (-1, self._vocab_size)  # special tokens have rank -1
        return np.array(
            [sequence.ranks or anything for sequence, rows in asking for _ in range(rows)], dtype=np.int64
        )  # [rows, 2]

    def _record(self, stage: Literal["recurrent", "head"], rows: int, tokens: int, started_at: float) -> None:
        seconds = time.perf_counter() - started_at
        self._metrics.batch_run(
            **self._labels, stage=stage, rows=rows, tokens=tokens, padded_tokens=tokens, seconds=seconds
        )


_NOTHING = HeadOutput(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64), np.zeros(0, np.float32))
