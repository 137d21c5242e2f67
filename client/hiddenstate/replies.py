"""Reads replies into plain values. Pure: no connection is needed."""

import sys
from typing import TYPE_CHECKING

from hiddenstate.errors import InvalidReplyError
from hiddenstate.results import (
    Candidate,
    EncodedBatch,
    FinishReason,
    GeneratedWord,
    ModelInfo,
    ModelKind,
    Prediction,
    Score,
    TokenScore,
    Usage,
)
from hiddenstate.v1 import language_model_pb2, model_pb2, sentence_encoder_pb2, usage_pb2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FINISH_REASONS = {
    language_model_pb2.GenerateResponse.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    language_model_pb2.GenerateResponse.FINISH_REASON_STOP_WORD: FinishReason.STOP_WORD,
    language_model_pb2.GenerateResponse.FINISH_REASON_END_OF_TEXT: FinishReason.END_OF_TEXT,
}
_MODEL_KINDS = {
    model_pb2.MODEL_KIND_LANGUAGE_MODEL: ModelKind.LANGUAGE_MODEL,
    model_pb2.MODEL_KIND_SENTENCE_ENCODER: ModelKind.SENTENCE_ENCODER,
    model_pb2.MODEL_KIND_TENSOR_MODEL: ModelKind.TENSOR_MODEL,
}

# A frozen dataclass looks up each field that its constructor sets, which was a tenth of what a prediction cost.
_set_word, _set_log_prob, _set_token_id = (
    getattr(Candidate, field).__set__ for field in ("word", "log_prob", "token_id")
)


def read_prediction(response: language_model_pb2.PredictResponse) -> Prediction:
    """Reads the reply of a prediction."""
    return Prediction(
        candidates=tuple([_read_candidate(candidate) for candidate in response.candidates]),
        state=response.state or None,
        usage=read_usage(response.usage),
        model=response.model,
        model_version=response.model_version,
    )


def read_word(response: language_model_pb2.GenerateResponse) -> GeneratedWord | None:
    """Reads one reply of a generation: its word, or None where the reply only ends the text."""
    return GeneratedWord(response.word, response.log_prob, response.token_id) if response.word else None


def read_finish_reason(response: language_model_pb2.GenerateResponse) -> FinishReason | None:
    """Reads why the text ended; None while it goes on."""
    return _FINISH_REASONS.get(response.finish_reason)


def read_score(response: language_model_pb2.ScoreResponse) -> Score:
    """Reads the reply of a score."""
    return Score(
        tokens=tuple(TokenScore(t.token, t.log_prob, t.token_id) for t in response.tokens),
        log_prob=response.log_prob,
        perplexity=response.perplexity,
        usage=read_usage(response.usage),
        model=response.model,
        model_version=response.model_version,
    )


def read_encoded(response: sentence_encoder_pb2.EncodeResponse, count: int) -> EncodedBatch:
    """Reads the reply to `count` sentences.

    Raises:
        InvalidReplyError: the reply has another number of vectors, or its bytes do not fit its numbers.
    """
    return EncodedBatch(
        embeddings=read_embeddings(response, count),
        truncated=response.truncated,
        usage=read_usage(response.usage),
        model=response.model,
        model_version=response.model_version,
    )


def read_embeddings(response: sentence_encoder_pb2.EncodeResponse, count: int) -> "NDArray[np.float32]":
    """Reads the vectors of `count` sentences: float32 [count, dimension], which may be written to.

    Raises:
        InvalidReplyError: the reply has another number of vectors, or its bytes do not fit its numbers.
    """
    import numpy as np  # here, since it is a quarter of the time that `import hiddenstate` takes

    embeddings, dimension = response.embeddings, response.dimension
    if response.count != count:
        raise InvalidReplyError(f"{count} sentences were sent, but {response.count} vectors came back")
    if not embeddings or len(embeddings) != count * dimension * 4:
        raise InvalidReplyError(
            f"{count} vectors of {dimension} float32 values take {count * dimension * 4} bytes, "
            f"but {len(embeddings)} came back"
        )
    values = np.ndarray((count, dimension), np.float32, bytearray(embeddings))
    return values if sys.byteorder == "little" else values.byteswap()


def read_model(model: model_pb2.Model) -> ModelInfo:
    """Reads the description of a model."""
    return ModelInfo(
        name=model.name,
        version=model.version,
        kind=_MODEL_KINDS.get(model.kind, ModelKind.UNKNOWN),
        architecture=model.architecture,
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        parameters=model.parameters,
        state_bytes=model.state_bytes,
        max_top_k=model.max_top_k,
        max_seq_length=model.max_seq_length,
        dimension=model.dimension,
        normalized=model.normalized,
        provider=model.provider,
        metrics=dict(model.metrics),
        license=model.license,
        training_data=model.training_data,
    )


def read_usage(usage: usage_pb2.Usage) -> Usage:
    """Reads what a request cost."""
    return Usage(usage.tokens_computed, usage.tokens_reused, usage.queue_time_us, usage.compute_time_us)


def _read_candidate(message: language_model_pb2.Candidate) -> Candidate:
    candidate = object.__new__(Candidate)
    _set_word(candidate, message.word)
    _set_log_prob(candidate, message.log_prob)
    _set_token_id(candidate, message.token_id)
    return candidate
