"""Many requests over one stream, for tasks: whatever waits when the writer is free goes out in one message.

There is no timer and nothing to set. A lone request leaves at once; while a message is on its way, the requests that
come in meanwhile gather, and leave together as the next one. A message is only built when the one before it has been
taken, so that what waits for a slow server are the requests that their callers hold anyway. Nothing here knows what is
asked: a request is bytes, to which the stream puts a number and a time limit.
"""

import asyncio
import itertools
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import suppress
from typing import Generic, TypeVar

import grpc

from hiddenstate.connection import Connection
from hiddenstate.errors import request_error
from hiddenstate.outbox import Outbox
from hiddenstate.send_clock import SendClock
from hiddenstate.streaming import ReplyMessage, StreamEndedError, ending, no_reply
from hiddenstate.sweeper import Sweeper
from hiddenstate.wire import Envelope

_CLOSE_TIMEOUT_S = 5.0

ResponseT = TypeVar("ResponseT")


class AsyncRequestStream(Generic[ResponseT]):
    """A stream for tasks of one event loop: any of them may ask at any time, each waits for its own reply."""

    def __init__(
        self,
        connection: Connection,
        start: Callable[[AsyncIterator[bytes]], AsyncIterable[ReplyMessage[ResponseT]]],
        envelope: Envelope,
        most_bytes: int,
    ) -> None:
        """Starts the call.

        Args:
            connection: Where it goes.
            start: Starts the call with an iterator of the messages to send, and returns one of those that come.
            envelope: Makes messages of its requests.
            most_bytes: The largest request that may be sent; one that is larger fails alone.

        Raises:
            CallCancelledError: the client is closed.
        """
        self.ended: StreamEndedError | None = None
        self._connection = connection
        self._envelope = envelope
        self._loop = asyncio.get_running_loop()
        self._closing = self._retiring = False
        self._sent = self._answered = 0  # requests and replies, whether or not somebody waits
        self._ids = itertools.count(1)
        self._pending: dict[int, tuple[asyncio.Future[ResponseT], float]] = {}  # and their deadlines
        self._outbox = Outbox(most_bytes)
        self._clock = SendClock()
        self._idle: asyncio.Future[None] | None = None  # what the writer waits for
        self._sweeper = Sweeper(self._loop, self._expire)
        with connection.calling():
            self._call = start(self._messages())
        self._reader = asyncio.create_task(self._read(), name="hiddenstate-replies")

    @property
    def is_quiet(self) -> bool:
        """Whether the server has answered all that it was sent."""
        return self._sent == self._answered and not self._outbox

    async def ask(self, request: bytes, timeout_s: float | None) -> ResponseT:
        """Sends a request and waits for its reply.

        Raises:
            DeadlineError: no reply within `timeout_s`; the server may still act on the request.
            StreamEndedError: the stream has ended.
            HiddenstateError: the server refused the request, or it is too large.
        """
        request_id, slot = self.send(request, timeout_s, self.deadline(timeout_s))
        try:
            return await slot
        except BaseException:
            self.forget(request_id)
            raise

    def deadline(self, timeout_s: float | None) -> float:
        """Returns when a call that begins now has to end, by the event loop's clock."""
        return math.inf if timeout_s is None else self._loop.time() + timeout_s

    def send(self, request: bytes, timeout_s: float | None, deadline: float) -> "tuple[int, asyncio.Future[ResponseT]]":
        """Sends a request and returns its number. Awaiting the future raises what `ask` does; `forget` is for who
        waits no longer.

        Raises:
            StreamEndedError: the stream has ended.
        """
        if self.ended is not None:
            raise self.ended.copy()
        slot: asyncio.Future[ResponseT] = self._loop.create_future()
        request_id = next(self._ids)
        if timeout_s is not None:
            self._sweeper.watch(deadline)
        self._pending[request_id] = slot, deadline
        self._outbox.append((self._envelope.seal(request, request_id, timeout_s), slot))
        if self._idle is not None:
            self._wake()
        return request_id, slot

    def forget(self, request_id: int) -> None:
        """Drops the reply to a request; if it has not left yet, it never will."""
        self._pending.pop(request_id, None)

    def tell(self, request: bytes) -> None:
        """Sends a request whose reply does not matter. Does nothing where the stream has ended."""
        if self.ended is None:
            self._outbox.append((self._envelope.seal(request, 0, None), None))
            self._wake()

    async def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Lets replies that are due come in for some time, then ends the stream; who still waits is told so."""
        self._closing = True
        self._wake()
        await asyncio.wait([self._reader], timeout=timeout_s)
        self._reader.cancel()
        await asyncio.wait([self._reader])

    def retire(self) -> None:
        """Takes nothing more and ends when all is answered. Who asks nevertheless is told that the stream ended."""
        self._retiring = self._closing = True
        self._wake()

    def abandon(self) -> None:
        """Ends the stream and waits for nothing. Any thread may call it."""
        self._closing = True
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._reader.cancel)

    @property
    def _is_wanted_end(self) -> bool:
        return self._closing and not self._retiring

    async def _messages(self) -> AsyncIterator[bytes]:
        while self.ended is None:
            if messages := self._outbox.take():
                self._sent += len(messages)
                yield self._envelope.join(messages, self._clock.now_us(), self._outbox.cut)
            elif self._closing:
                return
            else:
                self._idle = self._loop.create_future()
                await self._idle

    def _wake(self) -> None:
        idle = self._idle
        if idle is not None:
            self._idle = None
            if not idle.done():
                idle.set_result(None)

    async def _read(self) -> None:
        cause: grpc.RpcError | None = None
        try:
            async for message in self._call:
                self._answer(message)
        except grpc.RpcError as error:
            cause = error
        except asyncio.CancelledError:
            self._closing = True
        finally:
            self._end(ending(cause, self._connection, closing=self._is_wanted_end, worked=self._answered > 0))

    def _answer(self, message: ReplyMessage[ResponseT]) -> None:
        replies = message.responses
        self._answered += len(replies)
        self._connection.budget.earn(len(replies))
        pop = self._pending.pop
        for reply in replies:
            waiting = pop(reply.request_id, None)
            if waiting is None or waiting[0].done():
                continue
            if reply.HasField("error"):
                waiting[0].set_exception(request_error(reply.error, self._connection.address))
            else:
                waiting[0].set_result(reply.response)

    def _expire(self, now: float) -> float:
        earliest = math.inf
        for slot, deadline in self._pending.values():
            if deadline > now:
                earliest = min(earliest, deadline)
            elif not slot.done():
                slot.set_exception(no_reply(self._connection))
        return earliest

    def _end(self, reason: StreamEndedError) -> None:
        self.ended = reason
        self._sweeper.stop()
        self._wake()
        pending, self._pending = self._pending, {}
        for slot, _ in pending.values():
            if not slot.done():
                slot.set_exception(reason.copy())
