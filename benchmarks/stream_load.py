"""Contexts over PredictStream: each appends a word, waits for its candidates, and appends the next.

As the thin client does, it joins the requests that are due into one message; it leaves out what the thin client does
beyond that, so that the server is what is measured.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator

import grpc

from benchmarks.samples import Samples
from hiddenstate.v1.language_model_pb2 import PredictStreamRequest, PredictStreamResponse

_METHOD = "/hiddenstate.v1.LanguageModelService/PredictStream"


class StreamLoad:
    """One stream with `contexts` contexts."""

    def __init__(self, channel: grpc.aio.Channel, contexts: int, words: Iterator[str], top_k: int) -> None:
        self.samples = Samples()
        self._words = words
        self._top_k = top_k
        self._contexts = contexts
        self._begun: dict[int, float] = {}
        self._ids = itertools.count(1)
        self._messages: asyncio.Queue[PredictStreamRequest | None] = asyncio.Queue()
        method = channel.stream_stream(
            _METHOD,
            request_serializer=PredictStreamRequest.SerializeToString,
            response_deserializer=PredictStreamResponse.FromString,
        )
        self._call = method(self._outgoing())

    async def run(self) -> None:
        """Goes on until `stop`."""
        self._send(range(1, self._contexts + 1))
        async for message in self._call:
            now = time.perf_counter()
            free = []
            for reply in message.responses:
                if reply.HasField("error"):
                    raise RuntimeError(reply.error.message)
                self.samples.add(now - self._begun.pop(reply.request_id))
                free.append(reply.request_id % self._contexts + 1)
            self._send(free)

    def stop(self) -> None:
        """Ends the stream."""
        self._call.cancel()

    def _send(self, contexts: "Iterator[int] | range | list[int]") -> None:
        now = time.perf_counter()
        message = PredictStreamRequest()
        for context in contexts:
            request_id = next(self._ids) * self._contexts + context - 1
            self._begun[request_id] = now
            request = message.requests.add(request_id=request_id, context_id=context)
            request.predict.text = next(self._words)
            request.predict.top_k = self._top_k
        self._messages.put_nowait(message)

    async def _outgoing(self) -> AsyncIterator[PredictStreamRequest]:
        while (message := await self._messages.get()) is not None:
            yield message
