"""What calls give back: frozen values, with no trace of the wire format."""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Priority = Literal["interactive", "bulk"]  # who goes first where requests wait for the model; bulk has time

State = bytes | bytearray | memoryview  # what a reply's `state` may be handed back as


class FinishReason(enum.StrEnum):
    """Why a generated text ended."""

    LENGTH = "length"  # max_tokens were generated
    STOP_WORD = "stop_word"  # the last word is one of stop_words
    END_OF_TEXT = "end_of_text"  # the model ended the text


class ModelKind(enum.StrEnum):
    """What a model is for."""

    LANGUAGE_MODEL = "language_model"
    SENTENCE_ENCODER = "sentence_encoder"
    TENSOR_MODEL = "tensor_model"  # an ONNX model; the Open Inference Protocol calls it
    UNKNOWN = "unknown"  # a kind that is newer than this client


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request cost the server."""

    tokens_computed: int  # run through the recurrent layers for this request
    tokens_reused: int  # their state was already known
    queue_time_us: int  # spent waiting for the model
    compute_time_us: int  # spent in the model


@dataclass(frozen=True, slots=True)
class Candidate:
    """A word that may come next."""

    word: str
    log_prob: float  # natural logarithm, over the whole vocabulary
    token_id: int

    @property
    def probability(self) -> float:
        """0 to 1, over the whole vocabulary."""
        return math.exp(self.log_prob)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest next words after a context."""

    candidates: tuple[Candidate, ...]  # likeliest first; fewer than top_k where no more fit the prefix
    state: bytes | None  # after the context, if it was asked for
    usage: Usage
    model: str
    model_version: str


@dataclass(frozen=True, slots=True)
class GeneratedWord:
    """One word of a generated text."""

    word: str
    log_prob: float  # under the model itself, before temperature, top_k and top_p
    token_id: int

    @property
    def probability(self) -> float:
        """0 to 1, under the model itself."""
        return math.exp(self.log_prob)


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of a scored text."""

    token: str  # the unknown-word token for words outside the vocabulary
    log_prob: float  # after all tokens before it
    token_id: int

    @property
    def probability(self) -> float:
        """0 to 1, after all tokens before it."""
        return math.exp(self.log_prob)


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a text is."""

    tokens: tuple[TokenScore, ...]
    log_prob: float  # sum over the tokens
    perplexity: float  # exp of minus the mean log probability
    usage: Usage
    model: str
    model_version: str


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBatch:
    """The vectors of the sentences of one call."""

    embeddings: "NDArray[np.float32]"  # [batch, dimension], in the order of the sentences
    truncated: int  # sentences that were cut at their end
    usage: Usage
    model: str
    model_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A served model."""

    name: str
    version: str
    kind: ModelKind
    architecture: str  # in words
    vocab_size: int
    hidden_size: int
    num_layers: int
    parameters: int
    state_bytes: int  # 0 for sentence encoders
    max_top_k: int  # 0 for sentence encoders
    max_seq_length: int  # the most tokens of one context or sentence
    dimension: int  # components of a vector; 0 for language models
    normalized: bool  # whether vectors have length 1
    provider: str  # ONNX Runtime execution provider
    metrics: Mapping[str, float]  # measured when the model was made
    license: str
    training_data: str
