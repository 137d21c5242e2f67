"""The stream that calls of a method ride on, for tasks: opened when it is needed, and again after it broke."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, TypeVar

import grpc

from hiddenstate.async_request_stream import AsyncRequestStream
from hiddenstate.connection import Connection
from hiddenstate.errors import HiddenstateError
from hiddenstate.outbox import StreamedRequest
from hiddenstate.retries import Retries
from hiddenstate.streaming import StreamEndedError

_CLOSE_TIMEOUT_S = 0.5

RequestT = TypeVar("RequestT")
ItemT = TypeVar("ItemT", bound=StreamedRequest)
ResponseT = TypeVar("ResponseT")


class AsyncSharedStream(Generic[RequestT, ItemT, ResponseT]):
    """Calls that could each go alone, joined on a stream where the server has one."""

    def __init__(
        self,
        connection: Connection,
        open_stream: Callable[[], AsyncRequestStream[ItemT, Any, ResponseT]],
        wrap: Callable[[RequestT], ItemT],
        alone: Callable[[RequestT, float | None], Awaitable[ResponseT]],
        retried: Collection[grpc.StatusCode],
    ) -> None:
        """Opens nothing yet.

        Args:
            connection: Where calls go.
            open_stream: Opens a stream.
            wrap: Makes of a request what goes over a stream.
            alone: Makes a call of its own of a request, with a timeout in seconds.
            retried: The codes that another attempt may mend.
        """
        self._connection = connection
        self._open_stream = open_stream
        self._wrap = wrap
        self._alone = alone
        self._retried = retried
        self._stream: AsyncRequestStream[ItemT, Any, ResponseT] | None = None
        self._is_offered = True  # whether the server has such streams, as far as is known

    async def ask(self, request: RequestT, timeout_s: float | None) -> ResponseT:
        """Sends a request and waits for its reply.

        Raises:
            HiddenstateError: as a call of its own would.
        """
        clock = asyncio.get_running_loop().time
        deadline = math.inf if timeout_s is None else clock() + timeout_s
        retries: Retries | None = None
        while self._is_offered:
            try:
                return await self._live().ask(self._wrap(request), timeout_s)
            except (StreamEndedError, HiddenstateError) as error:
                failure = error
            retries = retries or Retries(self._retried)
            pause_s = retries.pause(failure, deadline - clock())
            if pause_s is None:
                self._is_offered = failure.code is not grpc.StatusCode.UNIMPLEMENTED
                break
            await asyncio.sleep(pause_s)
            timeout_s = None if timeout_s is None else deadline - clock()
        with self._connection.calling():
            return await self._alone(request, timeout_s)

    async def close(self) -> None:
        """Ends the stream. Who still waits gets CallCancelledError."""
        if self._stream is not None:
            await self._stream.close(_CLOSE_TIMEOUT_S if self._stream.is_quiet else 0.0)

    def _live(self) -> AsyncRequestStream[ItemT, Any, ResponseT]:
        if self._stream is None or self._stream.ended is not None:
            self._stream = self._open_stream()
        return self._stream
