"""Which calls of the clients share streams, and how each is sent alone where the server has none."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

import grpc

from hiddenstate.async_request_stream import AsyncRequestStream
from hiddenstate.async_shared_stream import AsyncSharedStream
from hiddenstate.connection import Connection
from hiddenstate.outbox import MOST_BYTES
from hiddenstate.request_stream import RequestStream, StreamCall
from hiddenstate.requests import streamed_encoding, streamed_prediction
from hiddenstate.shared_stream import SharedStream
from hiddenstate.v1.language_model_pb2 import (
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
    StreamedPredictRequest,
)
from hiddenstate.v1.sentence_encoder_pb2 import (
    EncodeRequest,
    EncodeResponse,
    EncodeStreamRequest,
    EncodeStreamResponse,
    StreamedEncodeRequest,
)

if TYPE_CHECKING:
    from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceAsyncStub, LanguageModelServiceStub
    from hiddenstate.v1.sentence_encoder_pb2_grpc import SentenceEncoderServiceAsyncStub, SentenceEncoderServiceStub

SharedPredictions = SharedStream[PredictRequest, StreamedPredictRequest, PredictResponse]
SharedEncodings = SharedStream[EncodeRequest, StreamedEncodeRequest, EncodeResponse]
AsyncSharedPredictions = AsyncSharedStream[PredictRequest, StreamedPredictRequest, PredictResponse]
AsyncSharedEncodings = AsyncSharedStream[EncodeRequest, StreamedEncodeRequest, EncodeResponse]

# As the service config of connection.py has it for calls of their own.
_RETRIED_PREDICTIONS = frozenset({grpc.StatusCode.UNAVAILABLE})
_RETRIED_ENCODINGS = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


def shared_predictions(connection: Connection, stub: "LanguageModelServiceStub") -> SharedPredictions:
    """Returns where predictions of threads meet."""

    def start(messages: Iterator[PredictStreamRequest]) -> StreamCall[PredictResponse]:
        return stub.PredictStream(messages)

    def open_stream() -> RequestStream[StreamedPredictRequest, PredictStreamRequest, PredictResponse]:
        return RequestStream(connection, start, join_predictions, _most_bytes(connection))

    return SharedStream(
        connection,
        open_stream,
        streamed_prediction,
        lambda request, timeout_s: stub.Predict.future(request, timeout=timeout_s),
        _RETRIED_PREDICTIONS,
    )


def shared_encodings(connection: Connection, stub: "SentenceEncoderServiceStub") -> SharedEncodings:
    """Returns where sentences of threads meet."""

    def start(messages: Iterator[EncodeStreamRequest]) -> StreamCall[EncodeResponse]:
        return stub.EncodeStream(messages)

    def open_stream() -> RequestStream[StreamedEncodeRequest, EncodeStreamRequest, EncodeResponse]:
        return RequestStream(connection, start, join_encodings, _most_bytes(connection))

    return SharedStream(
        connection,
        open_stream,
        streamed_encoding,
        lambda request, timeout_s: stub.Encode.future(request, timeout=timeout_s),
        _RETRIED_ENCODINGS,
    )


def async_shared_predictions(connection: Connection, stub: "LanguageModelServiceAsyncStub") -> AsyncSharedPredictions:
    """Returns where predictions of tasks meet."""

    def start(messages: AsyncIterator[PredictStreamRequest]) -> AsyncIterator[PredictStreamResponse]:
        return aiter(stub.PredictStream(messages))

    def open_stream() -> AsyncRequestStream[StreamedPredictRequest, PredictStreamRequest, PredictResponse]:
        return AsyncRequestStream(connection, start, join_predictions, _most_bytes(connection))

    return AsyncSharedStream(
        connection,
        open_stream,
        streamed_prediction,
        lambda request, timeout_s: stub.Predict(request, timeout=timeout_s),
        _RETRIED_PREDICTIONS,
    )


def async_shared_encodings(connection: Connection, stub: "SentenceEncoderServiceAsyncStub") -> AsyncSharedEncodings:
    """Returns where sentences of tasks meet."""

    def start(messages: AsyncIterator[EncodeStreamRequest]) -> AsyncIterator[EncodeStreamResponse]:
        return aiter(stub.EncodeStream(messages))

    def open_stream() -> AsyncRequestStream[StreamedEncodeRequest, EncodeStreamRequest, EncodeResponse]:
        return AsyncRequestStream(connection, start, join_encodings, _most_bytes(connection))

    return AsyncSharedStream(
        connection,
        open_stream,
        streamed_encoding,
        lambda request, timeout_s: stub.Encode(request, timeout=timeout_s),
        _RETRIED_ENCODINGS,
    )


def join_predictions(requests: Sequence[StreamedPredictRequest]) -> PredictStreamRequest:
    """Makes a message of requests."""
    return PredictStreamRequest(requests=requests)


def join_encodings(requests: Sequence[StreamedEncodeRequest]) -> EncodeStreamRequest:
    """Makes a message of requests."""
    return EncodeStreamRequest(requests=requests)


def _most_bytes(connection: Connection) -> int:
    """Returns the largest request that shares: a larger one would hold up others, and gains nothing by company."""
    return min(MOST_BYTES, connection.max_message_bytes)
