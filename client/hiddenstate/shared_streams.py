"""Which calls of the clients share streams, and how each is sent alone where the server has none."""

from typing import TYPE_CHECKING, Any

import grpc

from hiddenstate.async_request_stream import AsyncRequestStream
from hiddenstate.async_shared_stream import AsyncSharedStream
from hiddenstate.connection import Connection
from hiddenstate.outbox import MOST_BYTES
from hiddenstate.request_stream import RequestStream
from hiddenstate.shared_stream import SharedStream
from hiddenstate.streamed_requests import ENCODINGS, PREDICTIONS, unwrapped_encoding, unwrapped_prediction
from hiddenstate.v1.language_model_pb2 import PredictResponse, PredictStreamResponse
from hiddenstate.v1.sentence_encoder_pb2 import EncodeResponse, EncodeStreamResponse

if TYPE_CHECKING:
    from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceAsyncStub, LanguageModelServiceStub
    from hiddenstate.v1.sentence_encoder_pb2_grpc import SentenceEncoderServiceAsyncStub, SentenceEncoderServiceStub

SharedPredictions = SharedStream[PredictResponse]
SharedEncodings = SharedStream[EncodeResponse]
AsyncSharedPredictions = AsyncSharedStream[PredictResponse]
AsyncSharedEncodings = AsyncSharedStream[EncodeResponse]


def shared_predictions(
    connection: Connection, channel: grpc.Channel, stub: "LanguageModelServiceStub"
) -> SharedPredictions:
    """Returns where predictions of threads meet."""
    start = predict_stream(channel)
    return SharedStream(
        connection,
        lambda: RequestStream(connection, start, PREDICTIONS, _most_bytes(connection)),
        lambda request, timeout_s: stub.Predict.future(unwrapped_prediction(request), timeout=timeout_s),
    )


def shared_encodings(
    connection: Connection, channel: grpc.Channel, stub: "SentenceEncoderServiceStub"
) -> SharedEncodings:
    """Returns where sentences of threads meet."""
    start = _encode_stream(channel)
    return SharedStream(
        connection,
        lambda: RequestStream(connection, start, ENCODINGS, _most_bytes(connection)),
        lambda request, timeout_s: stub.Encode.future(unwrapped_encoding(request), timeout=timeout_s),
    )


def async_shared_predictions(
    connection: Connection, channel: grpc.aio.Channel, stub: "LanguageModelServiceAsyncStub"
) -> AsyncSharedPredictions:
    """Returns where predictions of tasks meet."""
    start = predict_stream(channel)
    return AsyncSharedStream(
        connection,
        lambda: AsyncRequestStream(connection, start, PREDICTIONS, _most_bytes(connection)),
        lambda request, timeout_s: stub.Predict(unwrapped_prediction(request), timeout=timeout_s),
    )


def async_shared_encodings(
    connection: Connection, channel: grpc.aio.Channel, stub: "SentenceEncoderServiceAsyncStub"
) -> AsyncSharedEncodings:
    """Returns where sentences of tasks meet."""
    start = _encode_stream(channel)
    return AsyncSharedStream(
        connection,
        lambda: AsyncRequestStream(connection, start, ENCODINGS, _most_bytes(connection)),
        lambda request, timeout_s: stub.Encode(unwrapped_encoding(request), timeout=timeout_s),
    )


# The stubs' own take message objects.


def predict_stream(channel: Any) -> Any:
    """Returns what starts a PredictStream, on a channel of grpc or grpc.aio, of messages that are bytes."""
    path = "/hiddenstate.v1.LanguageModelService/PredictStream"
    return channel.stream_stream(path, None, PredictStreamResponse.FromString)


def _encode_stream(channel: Any) -> Any:
    path = "/hiddenstate.v1.SentenceEncoderService/EncodeStream"
    return channel.stream_stream(path, None, EncodeStreamResponse.FromString)


def _most_bytes(connection: Connection) -> int:
    """Returns the largest request that shares: a larger one would hold up others, and gains nothing by company."""
    return min(MOST_BYTES, connection.max_message_bytes)
