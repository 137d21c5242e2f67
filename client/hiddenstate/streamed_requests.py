"""Builds what streams carry from plain values: requests as bytes, but for the numbers that streams give them."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from hiddenstate.requests import encode_request, predict_request
from hiddenstate.results import Priority, State
from hiddenstate.v1.language_model_pb2 import PredictRequest, PredictStreamRequest, StreamedPredictRequest
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest, EncodeStreamRequest, StreamedEncodeRequest
from hiddenstate.wire import LENGTH, Envelope, delimited, tag, varint

PREDICTIONS = Envelope(PredictStreamRequest, StreamedPredictRequest)
ENCODINGS = Envelope(EncodeStreamRequest, StreamedEncodeRequest)

_PREDICT = tag(StreamedPredictRequest, "predict", LENGTH)
_TEXT = tag(PredictRequest, "text", LENGTH)
_PREFIX = tag(PredictRequest, "prefix", LENGTH)
_ENCODE = tag(StreamedEncodeRequest, "encode", LENGTH)
_SENTENCES = tag(EncodeRequest, "sentences", LENGTH)


def prediction(
    text: str | None,
    *,
    tokens: Iterable[int] | None,
    top_k: int,
    prefix: str,
    state: State | None,
    return_state: bool,
    model: str,
    model_version: str,
    priority: Priority | None,
) -> bytes:
    """Builds a prediction of no context.

    Raises:
        InvalidRequestError: a value cannot be sent; the message names the field.
    """
    if tokens is None and state is None:
        try:
            predict = _prediction_options(top_k, return_state, model, model_version, priority)
            if text is not None:
                predict += delimited(_TEXT, text.encode())
            if prefix != "":
                predict += delimited(_PREFIX, prefix.encode())
            return delimited(_PREDICT, predict)
        except (AttributeError, TypeError, ValueError):
            pass  # what is wrong is said below
    request = predict_request(
        text,
        tokens=tokens,
        top_k=top_k,
        prefix=prefix,
        state=state,
        return_state=return_state,
        model=model,
        model_version=model_version,
        priority=priority,
    )
    return delimited(_PREDICT, request.SerializeToString())


def appending(context_id: int, predict: PredictRequest | None, *, close_context: bool = False) -> bytes:
    """Wraps a prediction that appends to a context, or none, to only close the context."""
    request = StreamedPredictRequest(context_id=context_id, predict=predict, close_context=close_context)
    return request.SerializeToString()


def encoding(
    sentences: Sequence[str], *, truncate: bool, model: str, model_version: str, priority: Priority | None
) -> bytes:
    """Builds a request for some sentences.

    Raises:
        InvalidRequestError: a value cannot be sent; the message names it.
    """
    try:
        parts = [_encoding_options(truncate, model, model_version, priority)]
        for sentence in sentences:
            text = sentence.encode()
            parts += (_SENTENCES, varint(len(text)), text)
        return delimited(_ENCODE, b"".join(parts))
    except (TypeError, ValueError):
        pass  # what is wrong is said below
    return wrapped_encoding(
        encode_request(sentences, truncate=truncate, model=model, model_version=model_version, priority=priority)
    )


def wrapped_encoding(encode: EncodeRequest) -> bytes:
    """Wraps a request for sentences."""
    return delimited(_ENCODE, encode.SerializeToString())


def unwrapped_prediction(request: bytes) -> PredictRequest:
    """Returns the prediction that a streamed request asks for."""
    return StreamedPredictRequest.FromString(request).predict


def unwrapped_encoding(request: bytes) -> EncodeRequest:
    """Returns the encoding that a streamed request asks for."""
    return StreamedEncodeRequest.FromString(request).encode


# What calls of one program have in common. Typed, since 1 and True, which are equal, are not the same to protobuf.


@lru_cache(maxsize=256, typed=True)
def _prediction_options(
    top_k: int, return_state: bool, model: str, model_version: str, priority: Priority | None
) -> bytes:
    return predict_request(
        None,
        tokens=None,
        top_k=top_k,
        prefix="",
        state=None,
        return_state=return_state,
        model=model,
        model_version=model_version,
        priority=priority,
    ).SerializeToString()


@lru_cache(maxsize=256, typed=True)
def _encoding_options(truncate: bool, model: str, model_version: str, priority: Priority | None) -> bytes:
    return encode_request(
        (), truncate=truncate, model=model, model_version=model_version, priority=priority
    ).SerializeToString()
