"""Many requests over gRPC streams: contexts that each append a word, wait for its candidates and append the next, or
sentences to encode.

As the thin client does, it joins the requests that are due into one message. It sends bytes that were made beforehand,
so that it costs little beside the server.
"""

import asyncio
import collections
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc

from benchmarks.load import Load
from benchmarks.pace import paced
from benchmarks.samples import Clock, Measured, Samples
from benchmarks.texts import sentences, texts
from hiddenstate.streamed_requests import PREDICTIONS as ENVELOPE  # that of both methods writes the same
from hiddenstate.v1.language_model_pb2 import (
    PredictRequest,
    PredictStreamRequest,
    PredictStreamResponse,
    StreamedPredictRequest,
)
from hiddenstate.v1.sentence_encoder_pb2 import (
    EncodeRequest,
    EncodeStreamRequest,
    EncodeStreamResponse,
    StreamedEncodeRequest,
)

PREDICT = "/hiddenstate.v1.LanguageModelService/PredictStream"
_ENCODE = "/hiddenstate.v1.SentenceEncoderService/EncodeStream"
_PARSERS: dict[str, Callable[[bytes], Any]] = {
    PREDICT: PredictStreamResponse.FromString,
    _ENCODE: EncodeStreamResponse.FromString,
}
_WORDS_OF_A_CONTEXT = 16
_SLOTS_S = 5.0  # paced sentences may wait so long for an answer before there is nothing left to send them with


class StreamLoad:
    """One stream. Its slots each have one request on the way at most; slot n's have n + 1 as their id."""

    def __init__(self, channel: grpc.aio.Channel, method: str, payloads: Sequence[Sequence[bytes]]) -> None:
        """`payloads` are the messages that each slot sends in turn; several may be joined as they are."""
        self.samples = Samples()
        self.refused = Samples()
        self.free = collections.deque(range(len(payloads)))
        self.unsent = 0
        self._again = False
        self._payloads = [itertools.cycle(each) for each in payloads]
        self._begun: dict[int, float] = {}
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()
        start: grpc.aio.StreamStreamMultiCallable[bytes, Any] = channel.stream_stream(method, bytes, _PARSERS[method])
        self._call = start(self._outgoing())

    @property
    def running(self) -> int:
        """Requests without an answer."""
        return len(self._begun) + self.unsent

    async def run(self) -> None:
        """Goes on until `stop`."""
        async for message in self._call:
            now, ended = time.perf_counter(), []
            for reply in message.responses:
                slot = reply.request_id - 1
                ended.append(slot)
                (self.refused if reply.HasField("error") else self.samples).add(now - self._begun.pop(slot))
            if self._again:
                self._send(ended, itertools.repeat(now))
            else:
                self.free += ended

    def keep(self) -> None:
        """Begins a request in every slot, and another whenever one ends."""
        self._again = True
        self._send([self.free.popleft() for _ in range(len(self.free))], itertools.repeat(time.perf_counter()))

    def begin(self, dues: Sequence[float]) -> None:
        """Begins requests that were due, in slots that are free; there are enough, unless the server stands still."""
        self.unsent += max(0, len(dues) - len(self.free))
        self._send([self.free.popleft() for _ in dues[: len(self.free)]], iter(dues))

    def stop(self) -> None:
        """Ends the stream."""
        self._call.cancel()

    def _send(self, slots: Iterable[int], dues: Iterator[float]) -> None:
        out = []
        for slot, due in zip(slots, dues, strict=False):
            self._begun[slot] = due
            out.append(next(self._payloads[slot]))
        self._messages.put_nowait(b"".join(out))

    async def _outgoing(self) -> AsyncIterator[bytes]:
        while True:
            message = [await self._messages.get()]
            while not self._messages.empty():
                message.append(self._messages.get_nowait())
            yield ENVELOPE.join(message, time.monotonic_ns())


async def measure(load: Load) -> Measured:
    """Measures one kind of load on streams, each with a connection of its own."""
    async with AsyncExitStack() as stack:
        streams = [StreamLoad(await connect(stack, load), *_requests(load, number)) for number in range(load.streams)]
        running = [asyncio.create_task(stream.run()) for stream in streams]
        for stream in streams[1:]:
            stream.samples, stream.refused = streams[0].samples, streams[0].refused
        measured = await (paced(load, _Together(streams)) if load.per_s else _kept(load, streams, running))
        for stream in streams:
            stream.stop()
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise RuntimeError(f"a stream ended: {ended!r}")
    return measured


async def connect(stack: AsyncExitStack, load: Load) -> grpc.aio.Channel:
    """Returns a channel with a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return await stack.enter_async_context(grpc.aio.insecure_channel(load.address, options))


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


async def _kept(load: Load, streams: Sequence[StreamLoad], running: Sequence["asyncio.Task[None]"]) -> Measured:
    for stream in streams:
        stream.keep()
    await asyncio.sleep(load.warm_up_s)
    clock = Clock(load.server_pid, streams[0].samples, streams[0].refused)
    await asyncio.wait(running, timeout=load.seconds, return_when=asyncio.FIRST_COMPLETED)
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
