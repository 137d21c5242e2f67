"""Compares a bundle's graphs with PyTorch before anything is published.

The reference runs each context alone and without padding, so a graph that lets padding or a neighbour in the batch
move an answer does not pass. Weights must be rounded to the stored type on both sides first: what is compared here is
the computation. PyTorch computes in float32; graphs that do not have wider tolerances.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hiddenstate_exporter.publishing.onnx_model import FloatArray, IdArray, LengthArray, OnnxModelError

TOLERANCE = 1e-4  # largest absolute difference of any value: outputs, states (h and c), log probabilities, embeddings
# Rounding to 8 bits can carry a random context of 40 tokens off by this much; on real text, the mean difference and
# the perplexity tell. A wrong gate or a neighbour's row makes more.
INT8_TOLERANCE = 1.0
# A component of a vector of length 1 is small: vectors of different sentences differ by 0.2 and more in some component.
INT8_EMBEDDING_TOLERANCE = 0.1
# PyTorch's own modules, run in float16 over random contexts of 40 tokens, are off by up to 0.14 in log probabilities
# (where logits reach 50), and by up to 0.002 in a component of a vector of length 1. cuDNN may add up in float16 too.
FP16_TOLERANCE = 0.25
FP16_EMBEDDING_TOLERANCE = 0.01
BATCH_SIZES = (1, 2, 5, 33)  # ONNX Runtime takes other paths above 4 rows
SEQ_LENS = (1, 2, 7, 40)


class ParityError(ValueError):
    """A graph's output differs from PyTorch's; the message names the output, the case and how far off it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One point of the grid."""

    batch_size: int
    seq_len: int
    ragged: bool
    random_state: bool = False

    def __str__(self) -> str:
        lengths = "ragged" if self.ragged else "equal"
        state = "random" if self.random_state else "zero"
        return f"batch {self.batch_size}, seq {self.seq_len}, {lengths} lengths, {state} initial state"


def grid(*, random_states: bool) -> list[Case]:
    """Lists all cases, with and without a random initial state where there is one to choose."""
    choices = itertools.product(BATCH_SIZES, SEQ_LENS, (False, True), (False, True)[: 1 + random_states])
    return [
        Case(batch_size=batch_size, seq_len=seq_len, ragged=ragged, random_state=random_state)
        for batch_size, seq_len, ragged, random_state in choices
    ]


class Differences:
    """The largest and the mean difference so far; refuses one above the tolerance."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.worst = 0.0
        self._sum = 0.0
        self._count = 0

    @property
    def mean(self) -> float:
        """The mean difference of all values so far."""
        return self._sum / max(self._count, 1)

    def add(self, output: str, case: Case | str, actual: FloatArray, expected: FloatArray) -> None:
        """Compares one output of a case.

        Raises:
            ParityError: another shape, or off by more than the tolerance anywhere.
        """
        if actual.shape != expected.shape:
            raise ParityError(f"{output}: has shape {list(actual.shape)}, PyTorch's {list(expected.shape)} ({case})")
        same = actual == expected  # infinities too
        differences = np.abs(np.where(same, 0, actual) - np.where(same, 0, expected))
        difference = float(differences.max(initial=0))
        if not difference <= self.tolerance:  # NaN must not pass
            raise ParityError(
                f"{output}: differs from PyTorch by {difference:.3g}, allowed is {self.tolerance:.3g} ({case})"
            )
        self.worst = max(self.worst, difference)
        self._sum += float(differences.sum(dtype=np.float64))
        self._count += differences.size


def draw_tokens(case: Case, vocab_size: int, rng: np.random.Generator) -> tuple[IdArray, LengthArray]:
    """Draws tokens [batch, seq], padding too (it must not matter), and lengths [batch]."""
    tokens = rng.integers(vocab_size, size=(case.batch_size, case.seq_len))
    lengths = np.full(case.batch_size, case.seq_len, np.int32)
    if case.ragged:
        lengths = rng.integers(1, case.seq_len, size=case.batch_size, endpoint=True).astype(np.int32)
        lengths[-1] = case.seq_len
        lengths[0] = max(case.seq_len - 1, 1)  # even a batch of one has padding
    return tokens, lengths


@contextlib.contextmanager
def naming_case(case: Case) -> Iterator[None]:
    """Says in which case it was that ONNX Runtime could not run a graph."""
    try:
        yield
    except OnnxModelError as error:
        raise ParityError(f"{error} ({case})") from error
