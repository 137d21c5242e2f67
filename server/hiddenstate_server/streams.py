"""Many requests over one stream: they are read as long as there is room, and what is ready is written together.

There is no timer. While a message is being written, the replies that become ready meanwhile gather and leave as the
next one. What bounds a stream is the weight of the requests that it has read and not yet answered: past `max_pending`
it reads no further, so a caller who does not read its replies stops itself, and nobody else.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import grpc

from hiddenstate_server.call_metrics import MethodMetrics
from hiddenstate_server.drain import RunningCalls
from hiddenstate_server.errors import InvalidRequestError, ShuttingDownError
from hiddenstate_server.interceptor import Context, status_of
from hiddenstate_server.replies import Replies

# Requests of a message that are begun before others on the event loop have their turn.
_READ_AT_A_TIME = 16

RequestT = TypeVar("RequestT")
RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
ResultT = TypeVar("ResultT")


class Arrived(NamedTuple, Generic[RequestT]):
    """A request that has been read."""

    request: RequestT
    request_id: int
    weight: int
    at: float  # of time.perf_counter()


class Lane(Generic[RequestT]):
    """Requests that are answered one after the other."""

    def __init__(self) -> None:
        self.waiting: deque[Arrived[RequestT]] = deque()


LaneT = TypeVar("LaneT", bound=Lane[Any])


class StreamedMethod(Protocol[RequestT_contra, LaneT, ResultT]):
    """What one stream asks for. Each stream has its own, which may remember what came before."""

    def new_message(self) -> Any:
        """Returns an empty message for replies."""

    def weight(self, request: RequestT_contra) -> int:
        """Returns what a request counts for in the stream's bound, at least 1."""

    def lane(self, request: RequestT_contra) -> LaneT | None:
        """Returns where a request waits for those before it; None if it need not. Called in order of arrival."""

    async def answer(self, request: RequestT_contra, lane: LaneT | None) -> ResultT:
        """Computes the answer to a request."""

    def fill(self, reply: Any, result: ResultT) -> int:
        """Writes an answer and returns about how many bytes it has."""


class Stream(Generic[RequestT, LaneT, ResultT]):
    """One open stream. The call's own task writes; requests are read and answered in tasks that end with it."""

    def __init__(
        self,
        context: Context,
        method: StreamedMethod[RequestT, LaneT, ResultT],
        *,
        running: RunningCalls,
        series: MethodMetrics,
        max_pending: int,
    ) -> None:
        self._context = context
        self._method = method
        self._running = running
        self._series = series
        self._max_pending = max_pending
        self._pending = 0  # weight of what is read and has no written reply
        self._unanswered: dict[int, Arrived[RequestT]] = {}
        self._replies = Replies(method.new_message)
        self._news = asyncio.Event()  # for the writer
        self._room = asyncio.Event()  # for the reader
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_at_read = False
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
            for count, request in enumerate(message.requests, start=1):
                if count % _READ_AT_A_TIME == 0:
                    await asyncio.sleep(0)
                weight = self._method.weight(request)
                await self._make_room(weight)
                self._begin(Arrived(request, request.request_id, weight, time.perf_counter()))

    async def _next_message(self) -> Any:
        if self._running.draining:
            raise asyncio.CancelledError
        self._is_at_read = True
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
        self._pending += weight

    def _begin(self, arrived: Arrived[RequestT]) -> None:
        self._series.begin()
        try:
            if arrived.request_id in self._unanswered:
                raise InvalidRequestError(f"request_id: a request with id {arrived.request_id} has no reply yet")
            lane = self._method.lane(arrived.request)
        except Exception as error:
            self._refuse(arrived, error)
            return
        self._unanswered[arrived.request_id] = arrived
        if lane is None:
            self._spawn(self._answer(arrived, None))
            return
        lane.waiting.append(arrived)
        if len(lane.waiting) == 1:
            self._spawn(self._work_off(lane))

    async def _work_off(self, lane: LaneT) -> None:
        while lane.waiting:
            await self._answer(lane.waiting[0], lane)
            lane.waiting.popleft()

    async def _answer(self, arrived: Arrived[RequestT], lane: LaneT | None) -> None:
        try:
            result = await self._method.answer(arrived.request, lane)
            self._replies.add(arrived.request_id, arrived.weight, lambda reply: self._method.fill(reply, result))
        except Exception as error:
            self._refuse(arrived, error)
        else:
            self._end(arrived, "OK")

    def _refuse(self, arrived: Arrived[RequestT], error: Exception) -> None:
        code, message = status_of(error)

        def fill(reply: Any) -> int:
            reply.error.code, reply.error.message = code.value[0], message
            return len(message)

        self._replies.add(arrived.request_id, arrived.weight, fill)
        self._end(arrived, code.name)

    def _end(self, arrived: Arrived[RequestT], code: str) -> None:
        if self._unanswered.get(arrived.request_id) is arrived:
            del self._unanswered[arrived.request_id]
        self._series.end(code, time.perf_counter() - arrived.at)
        self._news.set()

    async def _write(self) -> None:
        while self._pending or not self._reader.done():
            await self._news.wait()
            self._news.clear()
            while outgoing := self._replies.take():
                await self._context.write(outgoing.message)
                self._pending -= outgoing.weight
                self._room.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _abandon(self) -> None:
        """Cancels what nobody waits for any more, which takes its work out of the model's queue."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for arrived in self._unanswered.values():
            self._series.end("CANCELLED", time.perf_counter() - arrived.at)
