"""ModelStreamInfer: the requests of one stream are worked on side by side.

Replies are written in the order of the requests, as Triton does for models with one reply each: callers need not send
ids to tell them apart. What fails one request is told in its reply. Requests of one sequence begin in their order, and
the model takes them one after the other (sequences.py).
"""

import asyncio
import time
from typing import Final

import grpc

from hiddenstate_server.call_metrics import MethodMetrics
from hiddenstate_server.config import KIB
from hiddenstate_server.drain import RunningCalls
from hiddenstate_server.errors import ShuttingDownError
from hiddenstate_server.inference.infer_response import fill_failure, mark_final
from hiddenstate_server.inference.inferences import Inferences
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest, ModelStreamInferResponse
from hiddenstate_server.interceptor import Context, status_of
from hiddenstate_server.messages import read_deadline

# Metadata with which a caller asks that the first failure ends the stream with its status.
GRPC_ERRORS: Final = ("triton_grpc_error", "true")

# Requests and replies weigh 1 for each of so many bytes that they have begun: large ones bound a stream sooner.
_WEIGHT_BYTES: Final = 64 * KIB

Reply = asyncio.Task[ModelStreamInferResponse]


class InferStream:
    """One open stream. The call's own task writes; requests are read and answered in tasks that end with it."""

    def __init__(
        self,
        context: Context,
        inferences: Inferences,
        *,
        running: RunningCalls,
        series: MethodMetrics,
        max_pending: int,
    ) -> None:
        self._context = context
        self._inferences = inferences
        self._running = running
        self._series = series
        self._deadline = read_deadline(context)
        self._ends_at_failure = GRPC_ERRORS in tuple(context.invocation_metadata() or ())
        self._max_pending = max_pending
        self._pending = 0  # weight of what is read and has no written reply
        self._room = asyncio.Event()  # for the reader
        self._replies: asyncio.Queue[Reply | None] = asyncio.Queue()  # in the order of the requests; None ends it
        self._working: set[Reply] = set()
        self._is_at_read = False

    async def run(self) -> None:
        """Serves the stream until its caller ends it.

        Raises:
            ShuttingDownError: the server drains; all that was read has been answered.
            DecodeError: a message could not be read; all before it has been answered.
            ServingError: a request failed, and the caller asked that this ends the stream.
        """
        reader = asyncio.create_task(self._read())
        try:
            with self._running.until_draining(lambda: self._stop_reading(reader)):
                await self._write()
            if reader.cancelled():
                raise ShuttingDownError("the server is shutting down; send what has no reply to another replica")
            await reader
        finally:
            await _abandon(reader, *self._working)

    async def _read(self) -> None:
        try:
            while request := await self._next_request():
                await self._make_room(weight := _weight(request))
                self._begin(request, weight)
        finally:
            self._replies.put_nowait(None)

    async def _next_request(self) -> ModelInferRequest | None:
        if self._running.draining:
            raise asyncio.CancelledError
        self._is_at_read = True
        request = await self._context.read()
        self._is_at_read = False
        return None if request is grpc.aio.EOF else request

    def _stop_reading(self, reader: asyncio.Task[None]) -> None:
        if self._is_at_read:  # else a request is being taken in, and shall be answered
            reader.cancel()

    async def _make_room(self, weight: int) -> None:
        while self._pending and self._pending + weight > self._max_pending:
            self._room.clear()
            await self._room.wait()
        self._pending += weight

    def _begin(self, request: ModelInferRequest, weight: int) -> None:
        reply = asyncio.create_task(self._answer(request, weight))
        self._working.add(reply)
        reply.add_done_callback(self._done)
        self._replies.put_nowait(reply)

    def _done(self, reply: Reply) -> None:
        self._working.discard(reply)
        if not reply.cancelled():
            reply.exception()  # else asyncio complains of one that failed after the stream had ended

    async def _answer(self, request: ModelInferRequest, weight: int) -> ModelStreamInferResponse:
        started, code = time.perf_counter(), grpc.StatusCode.CANCELLED
        self._series.begin()
        try:
            reply = ModelStreamInferResponse()
            await self._inferences.infer(request, reply.infer_response, self._deadline)
            code = grpc.StatusCode.OK
        except Exception as error:
            code, message = status_of(error)
            self._series.failed(error)
            if self._ends_at_failure:
                raise
            reply = ModelStreamInferResponse(error_message=message)
            fill_failure(reply.infer_response, request)
        finally:
            self._series.end(code.name, time.perf_counter() - started)
        mark_final(reply.infer_response)
        self._pending += _weight(reply) - weight
        return reply

    async def _write(self) -> None:
        while (reply := await self._replies.get()) is not None:
            written = await reply
            await self._context.write(written)
            self._pending -= _weight(written)
            self._room.set()


def _weight(message: ModelInferRequest | ModelStreamInferResponse) -> int:
    return 1 + message.ByteSize() // _WEIGHT_BYTES


async def _abandon(*tasks: "asyncio.Task[None] | Reply") -> None:
    """Cancels what nobody waits for any more, which takes its work out of the model's queue."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
