"""The stream that calls of a method ride on, for tasks: opened when it is needed, and again after it broke."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import grpc

from hiddenstate.async_request_stream import AsyncRequestStream
from hiddenstate.connection import Connection
from hiddenstate.errors import HiddenstateError
from hiddenstate.retries import RETRIED, Retries, patiently_async
from hiddenstate.rotation import Rotation
from hiddenstate.streaming import StreamEndedError

_CLOSE_TIMEOUT_S = 0.5

ResponseT = TypeVar("ResponseT")


class AsyncSharedStream(Generic[ResponseT]):
    """Calls that could each go alone, joined on a stream where the server has one."""

    def __init__(
        self,
        connection: Connection,
        open_stream: Callable[[], AsyncRequestStream[ResponseT]],
        alone: Callable[[bytes, float | None], Awaitable[ResponseT]],
    ) -> None:
        """Opens nothing yet.

        Args:
            connection: Where calls go.
            open_stream: Opens a stream.
            alone: Makes a call of its own of a streamed request, with a timeout in seconds.
        """
        self._connection = connection
        self._alone = alone
        self._rotation = Rotation(open_stream, connection.endpoints.streams)
        self._is_offered = True  # whether the server has such streams, as far as is known

    async def ask(self, request: bytes, timeout_s: float | None) -> ResponseT:
        """Sends a request and waits for its reply.

        Raises:
            HiddenstateError: as a call of its own would.
        """
        if not self._is_offered:
            return await self._ask_alone(request, timeout_s)
        stream = self._live()
        deadline = stream.deadline(timeout_s)
        request_id, slot = stream.send(request, timeout_s, deadline)
        try:
            return await slot
        except BaseException as error:
            stream.forget(request_id)
            if not isinstance(error, (StreamEndedError, HiddenstateError)):
                raise
            failure = error
        return await self._ask_again(request, deadline, failure)

    async def close(self) -> None:
        """Ends the streams. Who still waits gets CallCancelledError."""
        for stream in self._rotation.streams:
            await stream.close(_CLOSE_TIMEOUT_S if stream.is_quiet else 0.0)

    def __del__(self) -> None:
        # A client that nobody closed. The streams' own tasks hold the streams, but not this.
        if (rotation := getattr(self, "_rotation", None)) is not None:
            for stream in rotation.streams:
                stream.abandon()

    async def _ask_again(
        self, request: bytes, deadline: float, failure: StreamEndedError | HiddenstateError
    ) -> ResponseT:
        retries, clock = Retries(RETRIED, self._connection.budget), asyncio.get_running_loop().time
        while (pause_s := retries.pause(failure, deadline - clock())) is not None:
            await asyncio.sleep(pause_s)
            try:
                return await self._live().ask(request, _left(deadline, clock()))
            except (StreamEndedError, HiddenstateError) as error:
                failure = error
        if failure.code is grpc.StatusCode.UNIMPLEMENTED:
            self._is_offered = False
        return await self._ask_alone(request, _left(deadline, clock()))

    async def _ask_alone(self, request: bytes, timeout_s: float | None) -> ResponseT:
        return await patiently_async(self._connection, lambda left: self._alone(request, left), timeout_s)

    def _live(self) -> AsyncRequestStream[ResponseT]:
        place = self._rotation.turn()
        return self._rotation.live(place) or self._rotation.renew(place)


def _left(deadline: float, now: float) -> float | None:
    return None if deadline == math.inf else deadline - now
