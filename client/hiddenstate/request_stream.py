"""Many requests over one stream, for threads: whatever waits when the writer is free goes out in one message.

The same as `async_request_stream.py`, which says more.
"""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import grpc

from hiddenstate.connection import Connection
from hiddenstate.errors import request_error
from hiddenstate.outbox import Outbox
from hiddenstate.send_clock import SendClock
from hiddenstate.streaming import ReplyMessage, ResponseT_co, StreamEndedError, ending, no_reply
from hiddenstate.waiter import Waiter
from hiddenstate.wire import Envelope

_CLOSE_TIMEOUT_S = 5.0

ResponseT = TypeVar("ResponseT")


class StreamCall(Iterable[ReplyMessage[ResponseT_co]], Protocol[ResponseT_co]):
    """A running call."""

    def cancel(self) -> bool: ...


class RequestStream(Generic[ResponseT]):
    """A stream for threads: any of them may ask at any time, each waits for its own reply."""

    def __init__(
        self,
        connection: Connection,
        start: Callable[[Iterator[bytes]], StreamCall[ResponseT]],
        envelope: Envelope,
        most_bytes: int,
    ) -> None:
        """Starts the call.

        Args:
            connection: Where it goes.
            start: Starts the call with an iterator of the messages to send.
            envelope: Makes messages of its requests.
            most_bytes: The largest request that may be sent; one that is larger fails alone.

        Raises:
            CallCancelledError: the client is closed.
        """
        self.ended: StreamEndedError | None = None
        self._connection = connection
        self._envelope = envelope
        self._closing = self._retiring = False
        self._sent = self._answered = 0  # requests and replies, whether or not somebody waits
        self._ids = itertools.count(1)
        self._pending: dict[int, Waiter[ResponseT]] = {}
        self._outbox = Outbox(most_bytes)
        self._clock = SendClock()
        self._idle = False  # whether the writer waits for news
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        with connection.calling():
            self._call = start(self._messages())  # gRPC takes the messages in a thread of its own
        self._reader = threading.Thread(target=self._read, name="hiddenstate-replies", daemon=True)
        self._reader.start()

    @property
    def is_quiet(self) -> bool:
        """Whether the server has answered all that it was sent."""
        return self._sent == self._answered and not self._outbox

    def ask(self, request: bytes, timeout_s: float | None) -> ResponseT:
        """Sends a request and waits for its reply.

        Raises:
            DeadlineError: no reply within `timeout_s`; the server may still act on the request.
            StreamEndedError: the stream has ended.
            HiddenstateError: the server refused the request, or it is too large.
        """
        return self.wait(*self.send(request, timeout_s), timeout_s)

    def send(self, request: bytes, timeout_s: float | None) -> tuple[int, Waiter[ResponseT]]:
        """Sends a request and returns its number; `wait` is for its reply."""
        waiter: Waiter[ResponseT] = Waiter()
        request_id = next(self._ids)
        self._pending[request_id] = waiter
        # Looked at only now: either this thread sees the end, or who ends the stream sees the waiter.
        if self.ended is not None:
            self._fail_all(self.ended)
        self._outbox.append((self._envelope.seal(request, request_id, timeout_s), waiter))
        self._wake()
        return request_id, waiter

    def wait(self, request_id: int, waiter: Waiter[ResponseT], timeout_s: float | None) -> ResponseT:
        """Waits for the reply to a request that was sent. Raises what `ask` does."""
        try:
            if waiter.wait(timeout_s):
                return waiter.result()
            raise no_reply(self._connection)
        finally:
            self.leave(request_id, waiter)

    def leave(self, request_id: int, waiter: Waiter[ResponseT]) -> None:
        """Forgets a request whose caller waits no longer."""
        waiter.leave()
        self._pending.pop(request_id, None)

    def tell(self, request: bytes) -> None:
        """Sends a request whose reply does not matter. Does nothing where the stream has ended."""
        self._outbox.append((self._envelope.seal(request, 0, None), None))
        self._wake()

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Lets replies that are due come in for some time, then ends the stream; who still waits is told so."""
        self._closing = True
        self._news.put(None)
        self._reader.join(timeout_s)
        self._call.cancel()

    def retire(self) -> None:
        """Takes nothing more and ends when all is answered. Who asks nevertheless is told that the stream ended."""
        self._retiring = self._closing = True
        self._news.put(None)

    def abandon(self) -> None:
        """Ends the stream and waits for nothing."""
        self._closing = True
        self._call.cancel()

    @property
    def _is_wanted_end(self) -> bool:
        return self._closing and not self._retiring

    def _messages(self) -> Iterator[bytes]:
        while self.ended is None:
            self._let_others_come()
            if messages := self._outbox.take():
                self._sent += len(messages)
                yield self._envelope.join(messages, self._clock.now_us(), self._outbox.cut)
            elif self._closing:
                return
            else:
                self._await_news()

    def _let_others_come(self) -> None:
        """Lets threads run that are about to ask, as long as each turn brings more of them; never waits."""
        count = 0
        while len(self._outbox) > count:
            count = len(self._outbox)
            time.sleep(0)

    def _await_news(self) -> None:
        self._idle = True
        # Looked at only now: either this thread sees the request, or who puts it sees that the writer is idle.
        if not self._outbox and not self._closing and self.ended is None:
            self._news.get()
        self._idle = False

    def _wake(self) -> None:
        if self._idle:
            self._idle = False
            self._news.put(None)

    def _read(self) -> None:
        cause: grpc.RpcError | None = None
        try:
            for message in self._call:
                self._answer(message)
        except grpc.RpcError as error:
            cause = error
        finally:
            self.ended = ending(
                cause, self._connection, closing=self._closing and not self._retiring, worked=self._answered > 0
            )
            self._fail_all(self.ended)
            self._news.put(None)  # lets go of gRPC's thread

    def _answer(self, message: ReplyMessage[ResponseT]) -> None:
        replies = message.responses
        self._answered += len(replies)
        self._connection.budget.earn(len(replies))
        for reply in replies:
            waiter = self._pending.pop(reply.request_id, None)
            if waiter is None:
                continue
            if reply.HasField("error"):
                waiter.set_exception(request_error(reply.error, self._connection.address))
            else:
                waiter.set_result(reply.response)

    def _fail_all(self, reason: StreamEndedError) -> None:
        for request_id in list(self._pending):
            waiter = self._pending.pop(request_id, None)  # another thread may do the same
            if waiter is not None:
                waiter.set_exception(reason.copy())
