"""Plain values to messages of the contract and back.

What becomes a message is written into one that is already where it will be sent from: protobuf copies a message that
is put into another one.
"""

import math
import time
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from hiddenstate.v1 import language_model_pb2 as lm
from hiddenstate.v1 import model_pb2, priority_pb2, sentence_encoder_pb2, usage_pb2
from hiddenstate_server.bundle import Bundle
from hiddenstate_server.context import Context
from hiddenstate_server.generation import GenerateOptions
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.prediction import PredictOptions
from hiddenstate_server.results import FinishReason, GeneratedToken, Score, Usage
from hiddenstate_server.sentence_encoder import SentenceEncoder

if TYPE_CHECKING:
    from hiddenstate_server.inference.onnx_model import OnnxModel

DEFAULT_TOP_K = 5
_BULK = priority_pb2.PRIORITY_BULK

_OPTIONS = frozenset({"max_tokens", "temperature", "top_k", "top_p", "seed"})
_FINISH_REASONS = {
    None: lm.GenerateResponse.FINISH_REASON_UNSPECIFIED,
    FinishReason.LENGTH: lm.GenerateResponse.FINISH_REASON_LENGTH,
    FinishReason.STOP_WORD: lm.GenerateResponse.FINISH_REASON_STOP_WORD,
    FinishReason.END_OF_TEXT: lm.GenerateResponse.FINISH_REASON_END_OF_TEXT,
}
_KINDS = {
    "language_model": model_pb2.MODEL_KIND_LANGUAGE_MODEL,
    "sentence_encoder": model_pb2.MODEL_KIND_SENTENCE_ENCODER,
}


class Named(Protocol):
    """A model, as far as a response names it."""

    name: str
    version: str


def read_context(request: lm.PredictRequest | lm.GenerateRequest | lm.ScoreRequest) -> Context:
    """Returns the context of a request."""
    sent = request.WhichOneof("context")
    text = request.text if sent == "text" else None
    tokens = request.tokens.ids if sent == "tokens" else None
    return Context(text, tokens, request.state)


def read_predict_options(request: lm.PredictRequest) -> PredictOptions:
    """Returns what a request wants to know."""
    top_k = request.top_k if request.HasField("top_k") else DEFAULT_TOP_K
    return PredictOptions(top_k, request.prefix, request.return_state)


def read_is_bulk(
    request: lm.PredictRequest | lm.GenerateRequest | lm.ScoreRequest | sentence_encoder_pb2.EncodeRequest,
) -> bool:
    """Returns whether a request goes behind what is interactive."""
    is_bulk: bool = request.priority == _BULK
    return is_bulk


def read_generate_options(request: lm.GenerateRequest) -> GenerateOptions:
    """Returns the options of a request; those that it does not set have their defaults."""
    options: dict[str, Any] = {field.name: value for field, value in request.ListFields() if field.name in _OPTIONS}
    return GenerateOptions(**options, stop_words=tuple(request.stop_words), return_state=request.return_state)


def read_truncate(request: sentence_encoder_pb2.EncodeRequest) -> bool:
    """Returns whether long sentences may be cut."""
    return request.truncate if request.HasField("truncate") else True


def read_deadline(context: grpc.aio.ServicerContext[Any, Any]) -> float:
    """Returns the time of time.monotonic() at which the caller stops waiting."""
    remaining: float | None = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining


def fill_generated(response: lm.GenerateResponse, token: GeneratedToken) -> None:
    """Writes a generated word."""
    response.word = token.word
    response.token_id = token.token_id
    response.log_prob = token.log_prob
    response.finish_reason = _FINISH_REASONS[token.finish_reason]
    response.seed = token.seed
    response.state = token.state
    _fill_usage(response.usage, token.usage)


def fill_score(response: lm.ScoreResponse, score: Score, model: Named) -> None:
    """Writes a score."""
    for token in score.tokens:
        response.tokens.add(token=token.token, token_id=token.token_id, log_prob=token.log_prob)
    response.log_prob = score.log_prob
    response.perplexity = score.perplexity
    response.model = model.name
    response.model_version = model.version
    _fill_usage(response.usage, score.usage)


def fill_model(message: model_pb2.Model, model: LanguageModel | SentenceEncoder) -> None:
    """Writes what a model is."""
    _fill_bundle(message, model.bundle)
    message.provider = model.provider
    message.max_seq_length = model.max_seq_length
    if isinstance(model, LanguageModel):
        message.state_bytes = model.state_bytes
        message.max_top_k = model.max_top_k
    else:
        message.dimension = model.dimension


def fill_tensor_model(message: model_pb2.Model, model: "OnnxModel") -> None:
    """Writes what there is to say of a model that takes tensors to tensors."""
    message.name = model.name
    message.version = model.version
    message.kind = model_pb2.MODEL_KIND_TENSOR_MODEL
    message.architecture = model.platform
    message.provider = model.provider


def _fill_bundle(message: model_pb2.Model, bundle: Bundle) -> None:
    message.name = bundle.name
    message.version = bundle.version
    message.kind = _KINDS[bundle.kind]
    message.architecture = str(bundle.architecture)
    message.vocab_size = bundle.vocab_size
    message.hidden_size = bundle.architecture.hidden_size
    message.num_layers = bundle.architecture.num_layers
    message.parameters = bundle.parameters
    message.normalized = bundle.sentence_encoder is not None and bundle.sentence_encoder.normalized
    message.metrics.update(bundle.metrics)
    message.license = bundle.license
    message.training_data = bundle.training.data


def _fill_usage(message: usage_pb2.Usage, usage: Usage) -> None:
    message.tokens_computed = usage.tokens_computed
    message.tokens_reused = usage.tokens_reused
    message.queue_time_us = usage.queue_time_us
    message.compute_time_us = usage.compute_time_us
