"""Sentences on their way through an encoder: the work that the scheduler batches, and its step."""

import math
import time
from collections.abc import Sequence

from hiddenstate_server.batch import pad
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.runner import EncoderRunner
from hiddenstate_server.work import Work


class Sentence(Work):
    """A sentence to encode."""

    __slots__ = ("tokens", "vector")

    def __init__(self, tokens: list[int], deadline: float = math.inf, is_bulk: bool = False) -> None:
        Work.__init__(self, len(tokens), deadline, is_bulk)
        self.tokens = tokens  # [seq]
        self.vector = b""  # float32 [dimension], once it is over


class EncodeStep:
    """The scheduler's step for sentence encoders. Runner threads may call it at the same time."""

    __slots__ = ("_counts", "_runner")

    def __init__(self, runner: EncoderRunner, *, model: str, version: str, metrics: Metrics) -> None:
        self._runner = runner
        self._counts = metrics.of_batches(model, version, "encoder")

    def run(self, batch: Sequence[Sentence]) -> Sequence[Sentence]:
        """Encodes a batch of sentences."""
        started_at = time.perf_counter()
        rows, useful = [], 0
        for sentence in batch:
            rows.append(sentence.tokens)
            useful += sentence.size
        tokens, lengths = pad(rows)
        embeddings = self._runner.encode(tokens, lengths)
        data, size = embeddings.tobytes(), embeddings.strides[0]
        for row, sentence in enumerate(batch):
            sentence.vector = data[row * size : (row + 1) * size]
            sentence.over = True
        seconds = time.perf_counter() - started_at
        self._counts.run(rows=len(batch), tokens=useful, padded_tokens=tokens.size, seconds=seconds)
        return batch
