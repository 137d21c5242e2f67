"""The stream that calls of a method ride on, for threads: opened when it is needed, and again after it broke."""

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import grpc

from hiddenstate.connection import Connection
from hiddenstate.errors import HiddenstateError
from hiddenstate.request_stream import RequestStream
from hiddenstate.retries import RETRIED, Retries
from hiddenstate.rotation import Rotation
from hiddenstate.streaming import ResponseT_co, StreamEndedError

_CLOSE_TIMEOUT_S = 0.5

ResponseT = TypeVar("ResponseT")


class LoneCall(Protocol[ResponseT_co]):
    """A running call that rides on no stream."""

    def result(self) -> ResponseT_co: ...
    def cancel(self) -> bool: ...


class SharedStream(Generic[ResponseT]):
    """Calls that could each go alone, joined on a stream where the server has one."""

    def __init__(
        self,
        connection: Connection,
        open_stream: Callable[[], RequestStream[ResponseT]],
        alone: Callable[[bytes, float | None], LoneCall[ResponseT]],
    ) -> None:
        """Opens nothing yet.

        Args:
            connection: Where calls go.
            open_stream: Opens a stream.
            alone: Makes a call of its own of a streamed request, with a timeout in seconds.
        """
        self.connection = connection
        self.alone = alone
        self.is_offered = True  # whether the server has such streams, as far as is known
        self._opening = threading.Lock()
        self._rotation = Rotation(open_stream, connection.endpoints.streams)

    def ask(self, request: bytes, timeout_s: float | None) -> ResponseT:
        """Sends a request and waits for its reply.

        Raises:
            HiddenstateError: as a call of its own would.
        """
        return self.begin(request, timeout_s).result()

    def begin(self, request: bytes, timeout_s: float | None) -> "SharedCall[ResponseT]":
        """Sends a request whose reply is taken later.

        Raises:
            CallCancelledError: the client is closed.
        """
        return SharedCall(self, request, timeout_s)

    def live(self) -> RequestStream[ResponseT]:
        """Returns the stream whose turn it is, open."""
        place = self._rotation.turn()
        if (stream := self._rotation.live(place)) is not None:
            return stream
        with self._opening:
            return self._rotation.renew(place)

    def close(self) -> None:
        """Ends the streams. Who still waits gets CallCancelledError."""
        for stream in self._rotation.streams:
            stream.close(_CLOSE_TIMEOUT_S if stream.is_quiet else 0.0)

    def __del__(self) -> None:
        # A client that nobody closed. The streams' own threads hold the streams, but not this.
        if (rotation := getattr(self, "_rotation", None)) is not None:
            for stream in rotation.streams:
                stream.abandon()


class SharedCall(Generic[ResponseT]):
    """One request, until its reply is taken."""

    def __init__(self, shared: SharedStream[ResponseT], request: bytes, timeout_s: float | None) -> None:
        self._shared = shared
        self._request = request
        self._timeout_s = timeout_s
        self._deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self._retries: Retries | None = None
        self._alone: LoneCall[ResponseT] | None = None
        if shared.is_offered:
            self._send()
        else:
            self._call_alone()

    def result(self) -> ResponseT:
        """Waits for the reply.

        Raises:
            HiddenstateError: as a call of its own would.
        """
        while True:
            try:
                if self._alone is None:
                    return self._stream.wait(self._request_id, self._waiter, self._timeout_s)
                with self._shared.connection.calling():
                    return self._alone.result()
            except (StreamEndedError, HiddenstateError) as error:
                failure = error
            self._follow(failure)

    def cancel(self) -> None:
        """Gives up waiting."""
        if self._alone is not None:
            self._alone.cancel()
        else:
            self._stream.leave(self._request_id, self._waiter)

    def _send(self) -> None:
        self._stream = self._shared.live()
        self._request_id, self._waiter = self._stream.send(self._request, self._timeout_s)

    def _call_alone(self) -> None:
        if self._alone is None:
            self._retries = Retries((), self._shared.connection.budget)  # gRPC retries such calls by itself
        with self._shared.connection.calling():
            self._alone = self._shared.alone(self._request, self._timeout_s)

    def _follow(self, failure: StreamEndedError | HiddenstateError) -> None:
        retries = self._retries = self._retries or Retries(RETRIED, self._shared.connection.budget)
        left_s = self._deadline - time.monotonic()
        if self._alone is None:
            pause_s = retries.pause(failure, left_s)
        else:
            assert isinstance(failure, HiddenstateError)
            pause_s = retries.back_off(failure, left_s)
        time.sleep(pause_s or 0.0)
        if self._timeout_s is not None:
            self._timeout_s = self._deadline - time.monotonic()
        if pause_s is not None and self._alone is None:
            self._send()
            return
        if failure.code is grpc.StatusCode.UNIMPLEMENTED:
            self._shared.is_offered = False
        self._call_alone()
