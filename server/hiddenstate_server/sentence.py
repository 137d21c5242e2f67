"""Sentences on their way through an encoder: the work that the scheduler batches, and its step."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.batch import pad
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.runner import EncoderRunner
from hiddenstate_server.scheduler import Work


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Sentence(Work):
    """A sentence to encode; its vector goes to `out`, a row of its request's array."""

    tokens: Sequence[int]  # [seq]
    out: NDArray[np.float32]  # [dimension]


class EncodeStep:
    """The scheduler's step for sentence encoders. Runner threads may call it at the same time."""

    def __init__(self, runner: EncoderRunner, *, model: str, version: str, metrics: Metrics) -> None:
        self._runner = runner
        self._counts = metrics.of_batches(model, version, "encoder")

    def __call__(self, batch: Sequence[Sentence]) -> Sequence[Sentence]:
        """Encodes a batch of sentences."""
        started_at = time.perf_counter()
        tokens, lengths = pad([sentence.tokens for sentence in batch])
        embeddings = self._runner.encode(tokens, lengths)
        for sentence, embedding in zip(batch, embeddings, strict=True):
            sentence.out[:] = embedding
            sentence.over = True
        self._counts.run(
            rows=len(batch),
            tokens=int(lengths.sum()),
            padded_tokens=tokens.size,
            seconds=time.perf_counter() - started_at,
        )
        return batch
