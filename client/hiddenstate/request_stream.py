"""Many requests over one stream: whatever waits when the writer wakes goes out in one message, replies match by id.

There is no timer and nothing to set. A lone request leaves at once; while a message is on its way, the requests that
come in meanwhile gather, and leave together as the next one. Nothing here knows what is asked: a stream is made from
the call that starts it and the function that joins requests into a message.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, Literal, Protocol, TypeVar

import grpc

from hiddenstate.connection import Connection
from hiddenstate.errors import (
    CallCancelledError,
    DeadlineError,
    HiddenstateError,
    UnavailableError,
    request_error,
    stream_error,
)
from hiddenstate.pending import Pending
from hiddenstate.v1.usage_pb2 import RequestError

# Of one message: past either, the rest waits for the next one, so that long texts stay under the message limit.
_MOST_REQUESTS = 1024
_MOST_BYTES = 2**20
_CLOSE_TIMEOUT_S = 5.0


class StreamedRequest(Protocol):
    """A request that a stream numbers."""

    request_id: int

    def ByteSize(self) -> int: ...  # noqa: N802 - protobuf's name


Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)
Item = TypeVar("Item", bound=StreamedRequest)
Message = TypeVar("Message")


class StreamedReply(Protocol[Response_co]):
    """The reply to one request: a response or an error."""

    request_id: int

    @property
    def response(self) -> Response_co: ...
    @property
    def error(self) -> RequestError: ...
    def HasField(self, field_name: Literal["error"], /) -> bool: ...  # noqa: N802 - protobuf's name


class ReplyMessage(Protocol[Response_co]):
    """Replies that came together."""

    @property
    def responses(self) -> Iterable[StreamedReply[Response_co]]: ...


class StreamCall(Iterable[ReplyMessage[Response_co]], Protocol[Response_co]):
    """A running call of the synchronous client."""

    def cancel(self) -> bool: ...


class RequestStream(Generic[Item, Message, Response]):
    """A stream for threads: any of them may ask at any time, each waits for its own reply."""

    def __init__(
        self,
        connection: Connection,
        start: Callable[[Iterator[Message]], StreamCall[Response]],
        join: Callable[[Sequence[Item]], Message],
    ) -> None:
        self._connection = connection
        self._join = join
        self._closing = False
        self._pending: Pending[Response] = Pending()
        self._waiting: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        with connection.calling():
            self._call = start(self._messages())  # gRPC takes the messages in a thread of its own
        self._reader = threading.Thread(target=self._read, name="hiddenstate-replies", daemon=True)
        self._reader.start()

    def ask(self, request: Item, timeout_s: float | None) -> Response:
        """Sends a request and waits for its reply.

        Raises:
            DeadlineError: no reply within `timeout_s`; the server may still act on the request.
            HiddenstateError: the server refused the request, or the stream has ended.
        """
        slot: Future[Response] = Future()
        request.request_id = self._pending.add(slot)
        self._waiting.put(request)
        try:
            return slot.result(self._connection.timeout(timeout_s))
        except TimeoutError:
            raise _no_reply(self._connection) from None
        finally:
            self._pending.drop(request.request_id)

    def tell(self, request: Item) -> None:
        """Sends a request whose reply does not matter. Does nothing where the stream has ended."""
        self._waiting.put(request)

    def close(self) -> None:
        """Lets replies that are due come in, then ends the stream; who waits even then gets CallCancelledError."""
        self._closing = True
        self._waiting.put(None)
        self._reader.join(_CLOSE_TIMEOUT_S)
        self._call.cancel()

    def _messages(self) -> Iterator[Message]:
        ended = False
        while not ended:
            items, ended = self._take()
            if items:
                yield self._join(items)

    def _take(self) -> tuple[list[Item], bool]:
        """Waits for a request, then takes all that wait. Tells whether the stream ends after them."""
        items: list[Item] = []
        size = 0
        item = self._waiting.get()
        with suppress(queue.Empty):
            while item is not None:
                items.append(item)
                size += item.ByteSize()
                if _is_full(items, size):
                    return items, False
                item = self._waiting.get_nowait()
        return items, item is None

    def _read(self) -> None:
        error: HiddenstateError | None = None
        try:
            for message in self._call:
                _answer(self._pending, message, self._connection)
        except grpc.RpcError as cause:
            error = stream_error(cause, self._connection.address)
        finally:
            self._pending.fail(_reason(error, self._connection, closing=self._closing))
            self._waiting.put(None)  # lets go of gRPC's thread


class AsyncRequestStream(Generic[Item, Message, Response]):
    """A stream for tasks of one event loop: any of them may ask at any time, each waits for its own reply."""

    def __init__(
        self,
        connection: Connection,
        start: Callable[[AsyncIterator[Message]], AsyncIterable[ReplyMessage[Response]]],
        join: Callable[[Sequence[Item]], Message],
    ) -> None:
        self._connection = connection
        self._join = join
        self._closing = False
        self._pending: Pending[Response] = Pending()
        self._waiting: asyncio.Queue[Item | None] = asyncio.Queue()
        with connection.calling():
            self._call = start(self._messages())
        self._reader = asyncio.create_task(self._read(), name="hiddenstate-replies")

    async def ask(self, request: Item, timeout_s: float | None) -> Response:
        """Sends a request and waits for its reply.

        Raises:
            DeadlineError: no reply within `timeout_s`; the server may still act on the request.
            HiddenstateError: the server refused the request, or the stream has ended.
        """
        slot: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        request.request_id = self._pending.add(slot)
        self._waiting.put_nowait(request)
        try:
            async with asyncio.timeout(self._connection.timeout(timeout_s)):
                return await slot
        except TimeoutError:
            raise _no_reply(self._connection) from None
        finally:
            self._pending.drop(request.request_id)

    def tell(self, request: Item) -> None:
        """Sends a request whose reply does not matter. Does nothing where the stream has ended."""
        self._waiting.put_nowait(request)

    async def close(self) -> None:
        """Lets replies that are due come in, then ends the stream; who waits even then gets CallCancelledError."""
        self._closing = True
        self._waiting.put_nowait(None)
        await asyncio.wait([self._reader], timeout=_CLOSE_TIMEOUT_S)
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _messages(self) -> AsyncIterator[Message]:
        ended = False
        while not ended:
            items, ended = await self._take()
            if items:
                yield self._join(items)

    async def _take(self) -> tuple[list[Item], bool]:
        """Waits for a request, then takes all that wait. Tells whether the stream ends after them."""
        items: list[Item] = []
        size = 0
        item = await self._waiting.get()
        with suppress(asyncio.QueueEmpty):
            while item is not None:
                items.append(item)
                size += item.ByteSize()
                if _is_full(items, size):
                    return items, False
                item = self._waiting.get_nowait()
        return items, item is None

    async def _read(self) -> None:
        error: HiddenstateError | None = None
        try:
            async for message in self._call:
                _answer(self._pending, message, self._connection)
        except grpc.RpcError as cause:
            error = stream_error(cause, self._connection.address)
        except asyncio.CancelledError:
            error = CallCancelledError("the stream was closed")
        finally:
            self._pending.fail(_reason(error, self._connection, closing=self._closing))
            self._waiting.put_nowait(None)  # lets go of gRPC's task


def _is_full(items: Sequence[StreamedRequest], size: int) -> bool:
    return len(items) >= _MOST_REQUESTS or size >= _MOST_BYTES


def _answer(pending: Pending[Response], message: ReplyMessage[Response], connection: Connection) -> None:
    for reply in message.responses:
        if reply.HasField("error"):
            error = request_error(reply.error.code, reply.error.message, connection.address)
            pending.answer(reply.request_id, error)
        else:
            pending.answer(reply.request_id, reply.response)


def _reason(error: HiddenstateError | None, connection: Connection, *, closing: bool) -> HiddenstateError:
    """Says why nothing more will come: what went wrong, unless it was this side that wanted the end."""
    if closing or connection.closed:
        return CallCancelledError("the stream was closed")
    return error or UnavailableError(f"the server at {connection.address} ended the stream; open another")


def _no_reply(connection: Connection) -> DeadlineError:
    return DeadlineError(f"no reply from {connection.address} in time; allow more with timeout_s")
