"""Predictions over one stream, whose contexts keep their state: each call sends only what is new.

Where the stream breaks, another is opened, to another server if there are several, and each context that goes on first
sends there what it had consumed (`history.py`).
"""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

import grpc

from hiddenstate.async_request_stream import AsyncRequestStream
from hiddenstate.connection import Connection
from hiddenstate.errors import DeadlineError, HiddenstateError, InvalidRequestError
from hiddenstate.history import History
from hiddenstate.replies import read_prediction
from hiddenstate.request_stream import RequestStream, StreamCall
from hiddenstate.requests import predict_request
from hiddenstate.results import Prediction, Priority, State
from hiddenstate.retries import Clock, Retries
from hiddenstate.streamed_requests import PREDICTIONS, appending
from hiddenstate.streaming import StreamEndedError
from hiddenstate.v1.language_model_pb2 import PredictRequest, PredictResponse, PredictStreamResponse
from hiddenstate.waiter import Waiter

_RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE})

_Requests = RequestStream[PredictResponse]
_AsyncRequests = AsyncRequestStream[PredictResponse]


class PredictStream:
    """A stream of predictions. Any number of threads may use it, and any number of contexts may live on it."""

    def __init__(
        self,
        connection: Connection,
        start: Callable[[Iterator[bytes]], StreamCall[PredictResponse]],
    ) -> None:
        self.connection = connection
        self.context_ids = itertools.count(1)
        self._start = start
        self._opening = threading.Lock()
        self._closed = False
        self._requests = self._open()

    def context(self, *, model: str = "", model_version: str = "", priority: Priority | None = None) -> "Context":
        """Begins a context; the server remembers what its predictions append for as long as the stream lives."""
        return Context(self, model, model_version, priority)

    def live(self) -> _Requests:
        """Returns what carries the requests now: another one where the last broke."""
        if self._requests.ended is not None:
            with self._opening:
                if self._requests.ended is not None and not self._closed:
                    self._requests = self._open()
        return self._requests

    def close(self) -> None:
        """Ends the stream, and with it its contexts."""
        with self._opening:
            self._closed = True
        self._requests.close()

    def _open(self) -> _Requests:
        return RequestStream(self.connection, self._start, PREDICTIONS, self.connection.max_message_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Context:
    """A text that grows; the server holds the model's state after it."""

    def __init__(self, stream: PredictStream, model: str, model_version: str, priority: Priority | None) -> None:
        self._stream = stream
        self._connection = stream.connection
        self._requests: _Requests | None = None  # where the server knows this context
        self._id = 0  # there
        self._history = History()
        self._sending = threading.Lock()
        self._model = model
        self._model_version = model_version
        self._priority = priority
        self._closed = False

    def predict(
        self,
        text: str | None = None,
        *,
        tokens: Iterable[int] | None = None,
        top_k: int = 5,
        prefix: str = "",
        state: State | None = None,
        return_state: bool = False,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Appends text or token ids to the context (or neither) and answers the likeliest next words.

        Args: those of `Client.predict`; `state`, if given, replaces what the context remembers.

        Raises:
            DeadlineError: no reply within `timeout_s`. Nobody can tell whether the text was appended, so the context
                is closed: begin another.
            UnavailableError: the server is gone, and no other was found to go on with what this context has consumed.
            ModelNotFoundError: the same, and the other does not have the model's version.
            HiddenstateError: the server refused the request; the context is as it was before.
        """
        _check_open(closed=self._closed)
        request = predict_request(
            text,
            tokens=tokens,
            top_k=top_k,
            prefix=prefix,
            state=state,
            return_state=return_state,
            model=self._model,
            model_version=self._model_version,
            priority=self._priority,
        )
        request.return_state = return_state or self._history.wants_state
        try:
            response = self._ask(request, self._connection.timeout(timeout_s))
        except (DeadlineError, KeyboardInterrupt):
            self.close()
            raise
        self._history.add(request, response)
        return _read(response, return_state=return_state)

    def close(self) -> None:
        """Lets the server forget the context."""
        if not self._closed:
            self._closed = True
            self._forget()

    def _ask(self, request: PredictRequest, timeout_s: float | None) -> PredictResponse:
        clock = Clock(timeout_s)
        retries: Retries | None = None
        while True:
            try:
                return self._attempt(request, clock)
            except (StreamEndedError, HiddenstateError) as error:
                failure = error
            retries = retries or Retries(_RETRIED, self._connection.budget)
            time.sleep(_pause(retries, failure, clock))

    def _attempt(self, request: PredictRequest, clock: Clock) -> PredictResponse:
        requests = self._stream.live()
        sent = self._send(requests, request, clock)
        try:
            for request_id, waiter in sent:
                response = requests.wait(request_id, waiter, clock.left())
        except HiddenstateError:
            if len(sent) > 1:  # nobody knows how much of what came before has been taken
                self._forget()
            raise
        return response

    def _send(
        self, requests: _Requests, request: PredictRequest, clock: Clock
    ) -> list[tuple[int, Waiter[PredictResponse]]]:
        """Sends a request, after all that came before if the server does not know this context."""
        with self._sending:
            wanted = [request]
            if self._requests is not requests:
                self._requests, self._id = requests, next(self._stream.context_ids)
                wanted = self._history.before(request)
            return [requests.send(appending(self._id, each), clock.left()) for each in wanted]

    def _forget(self) -> None:
        requests, self._requests = self._requests, None
        if requests is not None:
            requests.tell(appending(self._id, None, close_context=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncPredictStream:
    """A stream of predictions. Any number of tasks may use it, and any number of contexts may live on it."""

    def __init__(
        self,
        connection: Connection,
        start: Callable[[AsyncIterator[bytes]], AsyncIterable[PredictStreamResponse]],
    ) -> None:
        self.connection = connection
        self.context_ids = itertools.count(1)
        self._start = start
        self._closed = False
        self._requests = self._open()

    def context(self, *, model: str = "", model_version: str = "", priority: Priority | None = None) -> "AsyncContext":
        """Begins a context; the server remembers what its predictions append for as long as the stream lives."""
        return AsyncContext(self, model, model_version, priority)

    def live(self) -> _AsyncRequests:
        """Returns what carries the requests now: another one where the last broke."""
        if self._requests.ended is not None and not self._closed:
            self._requests = self._open()
        return self._requests

    async def close(self) -> None:
        """Ends the stream, and with it its contexts."""
        self._closed = True
        await self._requests.close()

    def _open(self) -> _AsyncRequests:
        return AsyncRequestStream(self.connection, self._start, PREDICTIONS, self.connection.max_message_bytes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class AsyncContext:
    """A text that grows; the server holds the model's state after it."""

    def __init__(self, stream: AsyncPredictStream, model: str, model_version: str, priority: Priority | None) -> None:
        self._stream = stream
        self._connection = stream.connection
        self._requests: _AsyncRequests | None = None  # where the server knows this context
        self._id = 0  # there
        self._history = History()
        self._model = model
        self._model_version = model_version
        self._priority = priority
        self._closed = False

    async def predict(
        self,
        text: str | None = None,
        *,
        tokens: Iterable[int] | None = None,
        top_k: int = 5,
        prefix: str = "",
        state: State | None = None,
        return_state: bool = False,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Appends text or token ids to the context (or neither) and answers the likeliest next words.

        Args: those of `Client.predict`; `state`, if given, replaces what the context remembers.

        Raises:
            DeadlineError: no reply within `timeout_s`. Nobody can tell whether the text was appended, so the context
                is closed: begin another. The same holds where the task is cancelled while it waits.
            UnavailableError: the server is gone, and no other was found to go on with what this context has consumed.
            ModelNotFoundError: the same, and the other does not have the model's version.
            HiddenstateError: the server refused the request; the context is as it was before.
        """
        _check_open(closed=self._closed)
        request = predict_request(
            text,
            tokens=tokens,
            top_k=top_k,
            prefix=prefix,
            state=state,
            return_state=return_state,
            model=self._model,
            model_version=self._model_version,
            priority=self._priority,
        )
        request.return_state = return_state or self._history.wants_state
        try:
            response = await self._ask(request, self._connection.timeout(timeout_s))
        except (DeadlineError, asyncio.CancelledError):
            await self.close()
            raise
        self._history.add(request, response)
        return _read(response, return_state=return_state)

    async def close(self) -> None:
        """Lets the server forget the context."""
        if not self._closed:
            self._closed = True
            self._forget()

    async def _ask(self, request: PredictRequest, timeout_s: float | None) -> PredictResponse:
        clock = Clock(timeout_s)
        retries: Retries | None = None
        while True:
            try:
                return await self._attempt(request, clock)
            except (StreamEndedError, HiddenstateError) as error:
                failure = error
            retries = retries or Retries(_RETRIED, self._connection.budget)
            await asyncio.sleep(_pause(retries, failure, clock))

    async def _attempt(self, request: PredictRequest, clock: Clock) -> PredictResponse:
        requests = self._stream.live()
        if self._requests is requests:
            return await requests.ask(appending(self._id, request), clock.left())
        self._requests, self._id = requests, next(self._stream.context_ids)
        wanted = [appending(self._id, each) for each in self._history.before(request)]
        left_s = clock.left()
        # All that came before goes out with the request: the server takes one after the other.
        sent = [requests.send(each, left_s, requests.deadline(left_s)) for each in wanted]
        try:
            return (await asyncio.gather(*(slot for _, slot in sent)))[-1]
        except BaseException:
            for request_id, _ in sent:
                requests.forget(request_id)
            self._forget()  # nobody knows how much of what came before has been taken
            raise

    def _forget(self) -> None:
        requests, self._requests = self._requests, None
        if requests is not None:
            requests.tell(appending(self._id, None, close_context=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _check_open(*, closed: bool) -> None:
    if closed:
        raise InvalidRequestError(
            "this context is closed, as it also is once a reply did not come in time, since nobody knows then what it "
            "holds; begin another with stream.context() and send it the text so far"
        )


def _pause(retries: Retries, failure: StreamEndedError | HiddenstateError, clock: Clock) -> float:
    """Returns the seconds until a request is sent again.

    Raises:
        HiddenstateError: it is not.
    """
    pause_s = retries.pause(failure, clock.left_s())
    if pause_s is None:  # a call of its own might carry it, but would not know the context
        return retries.back_off(failure.error if isinstance(failure, StreamEndedError) else failure, clock.left_s())
    return pause_s


def _read(response: PredictResponse, *, return_state: bool) -> Prediction:
    if not return_state:  # it was the history that wanted it
        response.ClearField("state")
    return read_prediction(response)
