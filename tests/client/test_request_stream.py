"""How a stream gathers requests, seen from the messages that gRPC takes from it."""

import threading
from collections.abc import Iterator

from hiddenstate.connection import Connection
from hiddenstate.request_stream import RequestStream
from hiddenstate.streamed_requests import PREDICTIONS, appending
from hiddenstate.v1.language_model_pb2 import (
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
)


class Taker:
    """Stands for the running call: the test takes the messages itself, and no reply comes."""

    def __init__(self) -> None:
        self.messages: Iterator[bytes] = iter(())
        self._cancelled = threading.Event()

    def start(self, messages: Iterator[bytes]) -> "Taker":
        self.messages = messages
        return self

    def __iter__(self) -> Iterator[PredictStreamResponse]:
        self._cancelled.wait()
        return iter(())

    def cancel(self) -> bool:
        self._cancelled.set()
        return True


def open_stream(taker: Taker) -> RequestStream[PredictResponse]:
    return RequestStream(Connection("127.0.0.1:1", None), taker.start, PREDICTIONS, 2**20)


def request(context_id: int, text: str = "") -> bytes:
    return appending(context_id, PredictRequest(text=text))


def context_ids(message: bytes) -> list[int]:
    return [request.context_id for request in PredictStreamRequest.FromString(message).requests]


def test_a_lone_request_leaves_at_once() -> None:
    taker = Taker()
    stream = open_stream(taker)
    stream.tell(request(1))
    assert context_ids(next(taker.messages)) == [1]
    taker.cancel()


def test_what_gathers_while_a_message_is_on_its_way_leaves_together_and_in_order() -> None:
    taker = Taker()
    stream = open_stream(taker)
    stream.tell(request(1))
    next(taker.messages)
    for context_id in (2, 3, 4):
        stream.tell(request(context_id))
    assert context_ids(next(taker.messages)) == [2, 3, 4]
    taker.cancel()


def test_long_texts_are_spread_over_messages() -> None:
    taker = Taker()
    stream = open_stream(taker)
    for context_id, length in enumerate((100_000, 100_000, 100_000, 700_000, 100_000), start=1):
        stream.tell(request(context_id, "x" * length))
    assert [context_ids(next(taker.messages)) for _ in range(4)] == [[1, 2], [3], [4], [5]]
    taker.cancel()


def test_no_message_has_more_than_1024_requests() -> None:
    taker = Taker()
    stream = open_stream(taker)
    for context_id in range(1, 1031):
        stream.tell(request(context_id))
    assert [len(context_ids(next(taker.messages))) for _ in range(2)] == [1024, 6]
    taker.cancel()


def test_requests_that_wait_when_a_stream_is_closed_still_leave() -> None:
    taker = Taker()
    stream = open_stream(taker)
    stream.tell(request(1))
    closing = threading.Thread(target=stream.close)
    closing.start()
    assert [context_ids(message) for message in taker.messages] == [[1]]
    taker.cancel()
    closing.join()
