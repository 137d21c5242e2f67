"""Many requests over gRPC streams: contexts that each append a word, wait for its candidates and append the next, or
sentences to encode.

As the thin client does, it joins the requests that are due into one message, and begins the next one when the server
has taken that. It sends bytes that were made beforehand and reads no more of a reply than whose it is, so that it costs
little beside the server.
"""

import asyncio
import collections
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack

from benchmarks.http2_stream import Http2Stream
from benchmarks.load import Load
from benchmarks.pace import paced
from benchmarks.samples import Clock, Measured, Samples
from benchmarks.texts import sentences, texts
from hiddenstate.outbox import Outbox
from hiddenstate.send_clock import SendClock
from hiddenstate.streamed_requests import PREDICTIONS as ENVELOPE  # that of both methods writes the same
from hiddenstate.v1.language_model_pb2 import (
    PredictRequest,
    PredictStreamRequest,
    PredictStreamResponse,
    StreamedPredictRequest,
    StreamedPredictResponse,
)
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest, EncodeStreamRequest, StreamedEncodeRequest
from hiddenstate.wire import LENGTH, VARINT, tag

PREDICT = "/hiddenstate.v1.LanguageModelService/PredictStream"
_ENCODE = "/hiddenstate.v1.SentenceEncoderService/EncodeStream"
# Both methods number the fields alike; each tag is one byte.
_RESPONSES = tag(PredictStreamResponse, "responses", LENGTH)[0]
_REQUEST_ID = tag(StreamedPredictResponse, "request_id", VARINT)[0]
_ERROR = tag(StreamedPredictResponse, "error", LENGTH)[0]
_WORDS_OF_A_CONTEXT = 16
_MOST_REQUEST = 2**22  # bytes
_SLOTS_S = 5.0  # paced sentences may wait so long for an answer before there is nothing left to send them with


class StreamLoad(Http2Stream):
    """One stream. Its slots each have one request on the way at most; slot n's have n + 1 as their id."""

    def __init__(self, method: str, payloads: Sequence[Sequence[bytes]]) -> None:
        """`payloads` are the messages that each slot sends in turn; several may be joined as they are."""
        super().__init__(method)
        self.samples = Samples()
        self.refused = Samples()
        self.free = collections.deque(range(len(payloads)))
        self.unsent = 0
        self._again = False
        self._payloads = [itertools.cycle(each) for each in payloads]
        self._begun: dict[int, float] = {}
        self._outbox = Outbox(_MOST_REQUEST)
        self._clock = SendClock()

    @property
    def running(self) -> int:
        """Requests without an answer."""
        return len(self._begun) + self.unsent

    def keep(self) -> None:
        """Begins a request in every slot, and another whenever one ends."""
        self._again = True
        self._ask([self.free.popleft() for _ in range(len(self.free))], itertools.repeat(time.perf_counter()))

    def begin(self, dues: Sequence[float]) -> None:
        """Begins requests that were due, in slots that are free; there are enough, unless the server stands still."""
        self.unsent += max(0, len(dues) - len(self.free))
        self._ask([self.free.popleft() for _ in dues[: len(self.free)]], iter(dues))

    def message_received(self, message: bytes) -> None:
        """Counts replies, and begins what follows them."""
        now, ended = time.perf_counter(), []
        for request_id, is_error in replies(message):
            slot = request_id - 1
            ended.append(slot)
            (self.refused if is_error else self.samples).add(now - self._begun.pop(slot))
        if self._again:
            self._ask(ended, itertools.repeat(now))
        else:
            self.free += ended

    def all_sent(self) -> None:
        """Sends what has gathered meanwhile."""
        while not self.is_sending and (requests := self._outbox.take()):
            self.send(ENVELOPE.join(requests, self._clock.now_us(), self._outbox.cut))

    def _ask(self, slots: Iterable[int], dues: Iterator[float]) -> None:
        for slot, due in zip(slots, dues, strict=False):
            self._begun[slot] = due
            self._outbox.append((next(self._payloads[slot]), None))
        self.all_sent()


def replies(message: bytes) -> Iterator[tuple[int, bool]]:
    """Yields the request of each reply of a message, and whether it is an error."""
    at = 0
    while at < len(message):
        if message[at] != _RESPONSES:
            raise ValueError(f"no reply begins with {message[at]}")
        size, at = _varint(message, at + 1)
        end = at + size
        if message[at] != _REQUEST_ID:
            raise ValueError(f"no reply to a request begins with {message[at]}")
        request_id, at = _varint(message, at + 1)
        yield request_id, at < end and message[at] == _ERROR
        at = end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns the number that begins at a place, and where it ends."""
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


async def measure(load: Load) -> Measured:
    """Measures one kind of load on streams, each with a connection of its own."""
    async with AsyncExitStack() as stack:
        streams = [await connect(stack, load, *_requests(load, number)) for number in range(load.streams)]
        for stream in streams[1:]:
            stream.samples, stream.refused = streams[0].samples, streams[0].refused
        measured = await (paced(load, _Together(streams)) if load.per_s else _kept(load, streams))
        for stream in streams:
            if stream.ended.done():
                raise RuntimeError(f"a stream ended: {stream.ended.result()}")
    return measured


async def connect(stack: AsyncExitStack, load: Load, method: str, payloads: Sequence[Sequence[bytes]]) -> StreamLoad:
    """Returns a stream with a connection of its own, which ends with the stack."""
    host, _, port = load.address.rpartition(":")
    loop = asyncio.get_running_loop()
    transport, stream = await loop.create_connection(lambda: StreamLoad(method, payloads), host, int(port))
    stack.callback(transport.close)
    return stream


def context_payload(slot: int, text: str, load: Load, *, keep: bool) -> bytes:
    """Returns a message with one request that appends to the slot's context, or with one that keeps none."""
    predict = PredictRequest(text=text, top_k=load.top_k)
    request = StreamedPredictRequest(request_id=slot + 1, context_id=slot + 1 if keep else 0, predict=predict)
    return PredictStreamRequest(requests=[request]).SerializeToString()


class _Together:
    """Streams that take due requests in turn."""

    def __init__(self, streams: Sequence[StreamLoad]) -> None:
        self.samples, self.refused = streams[0].samples, streams[0].refused
        self._streams = streams

    @property
    def running(self) -> int:
        return sum(stream.running for stream in self._streams)

    def begin(self, dues: Sequence[float]) -> None:
        for number, stream in enumerate(self._streams):
            if part := dues[number :: len(self._streams)]:
                stream.begin(part)


async def _kept(load: Load, streams: Sequence[StreamLoad]) -> Measured:
    for stream in streams:
        stream.keep()
    await asyncio.sleep(load.warm_up_s)
    clock = Clock(load.server_pid, streams[0].samples, streams[0].refused)
    ended = [stream.ended for stream in streams]
    await asyncio.wait(ended, timeout=load.seconds, return_when=asyncio.FIRST_COMPLETED)
    return clock.read()


def _requests(load: Load, stream: int) -> tuple[str, list[list[bytes]]]:
    """Returns a method and the messages of each slot of one stream.

    No context may begin like one of another stream or of an earlier round: the server would know it by heart.
    """
    if load.kind == "encode-stream":
        slots = int(load.per_s * _SLOTS_S) if load.per_s else load.callers
        return _ENCODE, [
            [_sentence_payload(slot, text, load)]
            for slot, text in enumerate(sentences(-(-slots // load.streams), load.seed))
        ]
    slots = load.callers // load.streams
    words = texts([1] * (slots * _WORDS_OF_A_CONTEXT), (load.seed, load.part, stream), load.vocab_size)
    return PREDICT, [
        [context_payload(slot, word, load, keep=load.keep) for word in words[slot::slots]] for slot in range(slots)
    ]


def _sentence_payload(slot: int, text: str, load: Load) -> bytes:
    request = StreamedEncodeRequest(request_id=slot + 1, encode=EncodeRequest(sentences=[text]))
    if load.timeout_s is not None:
        request.timeout_ms = round(load.timeout_s * 1000)
    return EncodeStreamRequest(requests=[request]).SerializeToString()
