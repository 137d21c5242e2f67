"""What the models answer, in plain values."""

import dataclasses
import enum

import numpy as np
from numpy.typing import NDArray


class Usage:
    """What a request cost; see usage.proto."""

    __slots__ = ("compute_time_us", "queue_time_us", "tokens_computed", "tokens_reused")

    def __init__(self, tokens_computed: int, tokens_reused: int, queue_time_us: int, compute_time_us: int) -> None:
        self.tokens_computed = tokens_computed
        self.tokens_reused = tokens_reused
        self.queue_time_us = queue_time_us
        self.compute_time_us = compute_time_us


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A word that may come next and the natural logarithm of its probability."""

    word: str
    log_prob: float
    token_id: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The likeliest next words, likeliest first; `state` is empty unless asked for."""

    candidates: list[Candidate]
    state: bytes
    usage: Usage


@dataclasses.dataclass(frozen=True, slots=True)
class TokenScore:
    """A token and the natural logarithm of its probability after all tokens before it."""

    token: str
    token_id: int
    log_prob: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How likely a text is."""

    tokens: list[TokenScore]
    log_prob: float
    perplexity: float
    usage: Usage


class FinishReason(enum.Enum):
    """Why a generated text ended."""

    LENGTH = enum.auto()
    STOP_WORD = enum.auto()
    END_OF_TEXT = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedToken:
    """The next generated word. `finish_reason`, `seed` and `state` are set with the last one."""

    word: str
    token_id: int
    log_prob: float
    usage: Usage
    finish_reason: FinishReason | None = None
    seed: int = 0
    state: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Vectors of sentences, in their order."""

    embeddings: NDArray[np.float32]  # [sentences, dimension]
    truncated: int  # sentences that were cut
    usage: Usage
