"""The load generator's streams, against a server's windows."""

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.http2 import DATA, END_STREAM, HEADERS, frame
from benchmarks.http2_stream import Http2Stream
from benchmarks.stream_load import StreamLoad, replies
from hiddenstate.v1.language_model_pb2 import (
    PredictRequest,
    PredictStreamRequest,
    PredictStreamResponse,
    StreamedPredictRequest,
)
from hiddenstate.v1.usage_pb2 import RequestError

SETTINGS, WINDOW_UPDATE = 0x4, 0x8
FIRST_WINDOW = 65_535
HEAD = 9  # bytes of a frame


class Wire:
    """The server's end: takes frames, and puts messages together of those with DATA."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, frames: bytes) -> None:
        """Takes frames, which it may find behind a preface."""
        frames = frames.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        while frames:
            high, low, kind = struct.unpack_from(">HBB", frames)
            size = high << 8 | low
            if kind == DATA:
                self.data += frames[HEAD : HEAD + size]
            frames = frames[HEAD + size :]

    def messages(self) -> list[bytes]:
        """Returns the messages that have come as a whole, and keeps the rest."""
        found = []
        while len(self.data) >= 5:
            size = int.from_bytes(self.data[1:5], "big")
            if len(self.data) < 5 + size:
                break
            found.append(self.data[5 : 5 + size])
            self.data = self.data[5 + size :]
        return found


def joined(stream: Http2Stream) -> Wire:
    """Connects a stream to a server."""
    wire = Wire()
    stream.connection_made(wire)  # type: ignore[arg-type]
    return wire


def wider(more: int) -> bytes:
    """Returns frames by which a server takes more, of the call and in all."""
    return frame(WINDOW_UPDATE, 0, 1, more.to_bytes(4, "big")) + frame(WINDOW_UPDATE, 0, 0, more.to_bytes(4, "big"))


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=20), st.lists(st.integers(1, 200_000), max_size=40))
def test_requests_come_once_and_in_order_whatever_the_windows(sizes: list[int], windows: list[int]) -> None:
    async def run() -> None:
        load = StreamLoad("/m", [[request(n + 1, "a" * size)] for n, size in enumerate(sizes)])
        wire = joined(load)
        load.begin([0.0] * len(sizes))
        for more in [*windows, 2**24]:
            load.data_received(wider(more))
        read = [PredictStreamRequest.FromString(message) for message in wire.messages()]
        assert all(message.sent_at_us for message in read)
        assert [(each.request_id, len(each.predict.text)) for message in read for each in message.requests] == [
            (n + 1, size) for n, size in enumerate(sizes)
        ]
        assert (wire.data, load.is_sending, load.running) == (b"", False, len(sizes))

    asyncio.run(run())


def request(request_id: int, text: str) -> bytes:
    """Returns a message of one request."""
    one = StreamedPredictRequest(request_id=request_id, predict=PredictRequest(text=text))
    return PredictStreamRequest(requests=[one]).SerializeToString()


async def test_no_more_is_sent_than_the_server_takes() -> None:
    load = StreamLoad("/m", [[bytes(100_000)]] * 3)
    wire = joined(load)
    load.begin([0.0] * 3)
    assert len(wire.data) == FIRST_WINDOW
    load.data_received(frame(SETTINGS, 0, 0, struct.pack(">HL", 4, FIRST_WINDOW + 1000)))  # of the call alone
    assert len(wire.data) == FIRST_WINDOW
    load.data_received(frame(WINDOW_UPDATE, 0, 0, (400).to_bytes(4, "big")))
    assert len(wire.data) == FIRST_WINDOW + 400
    load.data_received(wider(1_000_000))
    assert [len(message) // 100_000 for message in wire.messages()] == [2, 1]  # as many as the thin client joins


def response(*request_ids: int, error: bool = False) -> bytes:
    """Returns a message of replies."""
    message = PredictStreamResponse()
    for request_id in request_ids:
        reply = message.responses.add(request_id=request_id)
        if error:
            reply.error.CopyFrom(RequestError(code=8, message="no"))
        else:
            reply.response.model = "m"
    return message.SerializeToString()


def arriving(message: bytes) -> bytes:
    """Returns a message as the frames of a server."""
    return frame(DATA, 0, 1, struct.pack(">BL", 0, len(message)) + message)


@pytest.mark.parametrize("cut", [1, 7, 40, 10_000])
async def test_replies_are_counted_once_however_they_are_cut(cut: int) -> None:
    load = StreamLoad("/m", [[b"x"]] * 300)
    joined(load)
    load.begin([0.0] * 300)
    sent = arriving(response(*range(1, 200))) + arriving(response(200, 300, error=True))
    for at in range(0, len(sent), cut):
        load.data_received(sent[at : at + cut])
    assert (len(load.samples.seconds), len(load.refused.seconds), load.running) == (199, 2, 99)


@pytest.mark.parametrize(
    "sent",
    [arriving(response(7)), arriving(response(1)) * 2, arriving(b"\x12\x00"), arriving(b"\x0a\x02\x12\x00")],
    ids=["to nobody", "twice", "other field", "without a number"],
)
async def test_a_reply_that_nobody_waits_for_is_an_error(sent: bytes) -> None:
    load = StreamLoad("/m", [[b"x"]])
    joined(load)
    load.begin([0.0])
    with pytest.raises((KeyError, IndexError, ValueError)):
        load.data_received(sent)


@pytest.mark.parametrize("ends", [frame(HEADERS, END_STREAM, 1, b""), frame(0x3, 0, 1, bytes(4))])
async def test_a_stream_that_the_server_ends_says_so(ends: bytes) -> None:
    load = StreamLoad("/m", [[b"x"]])
    joined(load)
    load.data_received(ends)
    assert load.ended.result() == "the server ended it"


@given(st.lists(st.tuples(st.integers(1, 2**64 - 1), st.booleans()), max_size=20))
def test_replies_are_read_as_protobuf_wrote_them(expected: list[tuple[int, bool]]) -> None:
    message = b"".join(response(request_id, error=error) for request_id, error in expected)
    assert list(replies(message)) == expected
