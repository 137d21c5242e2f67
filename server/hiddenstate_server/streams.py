"""Many requests over one stream: they are read as long as there is room, and what is ready is written together.

There is no timer. While a message is being written, the replies that become ready meanwhile gather and leave as the
next one. What bounds a stream is the weight of the requests that it has read and not yet answered: past `max_pending`
it reads no further, so a caller who does not read its replies stops itself, and nobody else.

A request costs no task of its own: it is begun where it is read, and answered where the model tells that it is over.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import grpc

from hiddenstate.v1.usage_pb2 import RequestError
from hiddenstate_server.call_metrics import MethodMetrics
from hiddenstate_server.drain import RunningCalls
from hiddenstate_server.errors import InvalidRequestError, ShuttingDownError
from hiddenstate_server.interceptor import Context, retry_after_ms, status_of
from hiddenstate_server.replies import Replies
from hiddenstate_server.tallies import Distribution
from hiddenstate_server.transit import Transit
from hiddenstate_server.wire import streamed
from hiddenstate_server.work import Work

# Requests of a message that are begun before others on the event loop have their turn.
_READ_AT_A_TIME = 64
_KEPT_REFUSALS = 16


class Arrived:
    """A request that has been read."""

    __slots__ = ("at", "read_at", "request", "request_id", "weight", "works")

    def __init__(self, request: Any, request_id: int, weight: int, at: float, read_at: float) -> None:
        self.request = request
        self.request_id = request_id
        self.weight = weight
        self.at = at  # when it came, of time.monotonic(); what its time limit counts from
        self.read_at = read_at
        self.works: Sequence[Work] = ()  # what computes its answer


def deadline_of(arrived: Arrived, stream_deadline: float) -> float:
    """Returns when a request is late, of time.monotonic(): its own limit counts from when it came."""
    if not arrived.request.HasField("timeout_ms"):
        return stream_deadline
    timeout_ms: int = arrived.request.timeout_ms
    return min(stream_deadline, arrived.at + timeout_ms / 1000)


class Lane:
    """Requests that are answered one after the other. Most are idle most of the time, and shall cost little then."""

    __slots__ = ("is_busy", "waiting")

    def __init__(self) -> None:
        self.is_busy = False
        self.waiting: deque[Arrived] | None = None  # behind the one that is being answered

    def enter(self, arrived: Arrived) -> bool:
        """Tells whether a request may begin; else it waits."""
        if not self.is_busy:
            self.is_busy = True
            return True
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append(arrived)
        return False

    def next(self) -> Arrived | None:
        """Ends a request and returns the one that may begin now."""
        if self.waiting:
            return self.waiting.popleft()
        self.is_busy, self.waiting = False, None
        return None


Answer = bytes | Exception | None
"""The response's bytes, or why there is none; None where there is nothing to say."""

Answered = Callable[[Arrived, Any, Answer], None]


class StreamedMethod(Protocol):
    """What one stream asks for. Each stream has its own, which may remember what came before."""

    def weight(self, request: Any) -> int:
        """Returns what a request counts for in the stream's bound, at least 1."""

    def lane(self, request: Any) -> Lane | None:
        """Returns where a request waits for those before it; None if it need not. Called in order of arrival."""

    def begin(self, arrived: Arrived, lane: Any, answered: Answered) -> Coroutine[Any, Any, None] | None:
        """Sets out to answer a request: calls `answered(arrived, lane, ...)` once, then or later, or raises.

        What takes long is left to the coroutine that it returns.
        """


class Stream:
    """One open stream. The call's own task writes, another reads; both end with it."""

    __slots__ = (
        "_asked_at",
        "_closed",
        "_context",
        "_is_at_read",
        "_loop",
        "_max_pending",
        "_method",
        "_news",
        "_pending",
        "_reader",
        "_refusals",
        "_replies",
        "_room",
        "_running",
        "_series",
        "_tasks",
        "_transit",
        "_unanswered",
        "_unread",
    )

    def __init__(
        self,
        context: Context,
        method: StreamedMethod,
        *,
        running: RunningCalls,
        series: MethodMetrics,
        unread: Distribution,
        max_pending: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = context
        self._method = method
        self._running = running
        self._series = series
        self._unread = unread
        self._max_pending = max_pending
        self._pending = 0  # weight of what is read and has no written reply
        self._unanswered: dict[int, Arrived] = {}
        self._transit = Transit()
        self._replies = Replies()
        self._news = asyncio.Event()  # for the writer
        self._room = asyncio.Event()  # for the reader
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_at_read = False
        self._asked_at = 0.0  # when the reader began to wait for the next message
        # Refusals that others had too: the names of their statuses, and their bytes.
        self._refusals: dict[Exception, tuple[str, bytes]] = {}
        self._closed = False
        self._reader = self._spawn(self._read())
        self._reader.add_done_callback(lambda _: self._news.set())

    async def run(self) -> None:
        """Serves the stream until its caller ends it.

        Raises:
            ShuttingDownError: the server drains; all that was read has been answered.
            DecodeError: a message could not be read; all before it has been answered.
        """
        try:
            with self._running.until_draining(self._stop_reading):
                await self._write()
            if self._reader.cancelled():
                raise ShuttingDownError("the server is shutting down; send what has no reply to another replica")
            await self._reader
        finally:
            await self._abandon()

    async def _read(self) -> None:
        while (message := await self._next_message()) is not grpc.aio.EOF:
            now = came_at = time.monotonic()
            if message.sent_at_us:
                unread_s = self._transit.unread_s(message.sent_at_us, self._asked_at, now)
                self._unread.observe(unread_s)
                came_at -= unread_s
            for count, request in enumerate(message.requests, start=1):
                if count % _READ_AT_A_TIME == 0:
                    await asyncio.sleep(0)
                weight = self._method.weight(request)
                if self._pending and self._pending + weight > self._max_pending:
                    await self._make_room(weight)
                self._pending += weight
                self._take_in(Arrived(request, request.request_id, weight, came_at, now))

    async def _next_message(self) -> Any:
        if self._running.draining:
            raise asyncio.CancelledError
        self._is_at_read = True
        self._asked_at = time.monotonic()
        message = await self._context.read()
        self._is_at_read = False
        return message

    def _stop_reading(self) -> None:
        if self._is_at_read:  # else a message is being taken in, all of which shall be answered
            self._reader.cancel()

    async def _make_room(self, weight: int) -> None:
        while self._pending and self._pending + weight > self._max_pending:
            self._room.clear()
            await self._room.wait()

    def _take_in(self, arrived: Arrived) -> None:
        self._series.begin()
        try:
            if arrived.request_id in self._unanswered:
                raise InvalidRequestError(f"request_id: a request with id {arrived.request_id} has no reply yet")
            lane = self._method.lane(arrived.request)
        except Exception as error:
            self._reply(arrived, error)
            return
        self._unanswered[arrived.request_id] = arrived
        if lane is None or lane.enter(arrived):
            self._begin(arrived, lane)

    def _begin(self, arrived: Arrived, lane: Lane | None) -> None:
        try:
            slow = self._method.begin(arrived, lane, self._answered)
        except Exception as error:
            self._answered(arrived, lane, error)
        else:
            if slow is not None:
                self._spawn(self._follow(slow, arrived, lane))

    async def _follow(self, slow: Coroutine[Any, Any, None], arrived: Arrived, lane: Lane | None) -> None:
        try:
            await slow
        except Exception as error:
            self._answered(arrived, lane, error)

    def _answered(self, arrived: Arrived, lane: Lane | None, answer: Answer) -> None:
        if self._closed:
            return
        del self._unanswered[arrived.request_id]
        self._reply(arrived, answer)
        if lane is not None and (following := lane.next()) is not None:
            # Not at once: a long row of requests that fail would be as deep a stack.
            self._loop.call_soon(self._begin_next, following, lane)

    def _begin_next(self, arrived: Arrived, lane: Lane) -> None:
        if not self._closed:
            self._begin(arrived, lane)

    def _reply(self, arrived: Arrived, answer: Answer) -> None:
        if isinstance(answer, Exception):
            self._series.failed(answer)
            code, error = self._error(answer)
            reply = streamed(arrived.request_id, None, error)
        else:
            code, reply = "OK", streamed(arrived.request_id, answer)
        self._replies.add(reply, arrived.weight)
        self._series.end(code, time.monotonic() - arrived.read_at)
        if not self._news.is_set():
            self._news.set()

    def _error(self, answer: Exception) -> tuple[str, bytes]:
        """Returns the name of an error's status, and it as the bytes of a RequestError."""
        known = self._refusals.get(answer)
        if known is not None:
            return known
        status, message = status_of(answer)
        said = RequestError(code=status.value[0], message=message, retry_after_ms=retry_after_ms(answer))
        told = status.name, said.SerializeToString()
        if answer.__traceback__ is None:  # it was not raised, so it may be told again, and holds nothing
            if len(self._refusals) == _KEPT_REFUSALS:
                self._refusals.clear()
            self._refusals[answer] = told
        return told

    async def _write(self) -> None:
        while self._pending or not self._reader.done():
            await self._news.wait()
            self._news.clear()
            while outgoing := self._replies.take():
                message, weight = outgoing
                await self._context.write(message)
                self._pending -= weight
                self._room.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _abandon(self) -> None:
        """Takes what nobody waits for any more out of the model's queue."""
        self._closed = True
        for arrived in self._unanswered.values():
            self._series.end("CANCELLED", time.monotonic() - arrived.read_at)
            for work in arrived.works:
                work.abandoned = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
