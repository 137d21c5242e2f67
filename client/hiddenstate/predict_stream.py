"""Predictions over one stream, whose contexts keep their state: each call sends only what is new."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hiddenstate.async_request_stream import AsyncRequestStream
from hiddenstate.connection import Connection
from hiddenstate.errors import DeadlineError, InvalidRequestError
from hiddenstate.replies import read_prediction
from hiddenstate.request_stream import RequestStream, StreamCall
from hiddenstate.requests import predict_request, streamed_request
from hiddenstate.results import Prediction, Priority
from hiddenstate.shared_streams import join_predictions
from hiddenstate.streaming import StreamEndedError
from hiddenstate.v1.language_model_pb2 import (
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
    StreamedPredictRequest,
)

if TYPE_CHECKING:
    import grpc
    import grpc.aio

_Requests = RequestStream[StreamedPredictRequest, PredictStreamRequest, PredictResponse]
_AsyncRequests = AsyncRequestStream[StreamedPredictRequest, PredictStreamRequest, PredictResponse]


class PredictStream:
    """A stream of predictions. Any number of threads may use it, and any number of contexts may live on it."""

    def __init__(
        self,
        connection: Connection,
        method: "grpc.StreamStreamMultiCallable[PredictStreamRequest, PredictStreamResponse]",
    ) -> None:
        def start(messages: Iterator[PredictStreamRequest]) -> StreamCall[PredictResponse]:
            return method(messages)

        self._timeout = connection.timeout
        self._requests: _Requests = RequestStream(connection, start, join_predictions, connection.max_message_bytes)
        self._context_ids = itertools.count(1)

    def context(self, *, model: str = "", model_version: str = "", priority: Priority | None = None) -> "Context":
        """Begins a context; the server remembers what its predictions append for as long as the stream lives."""
        return Context(self._requests, self._timeout, next(self._context_ids), model, model_version, priority)

    def close(self) -> None:
        """Ends the stream, and with it its contexts."""
        self._requests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Context:
    """A text that grows; the server holds the model's state after it."""

    def __init__(
        self,
        requests: _Requests,
        timeout: Callable[[float | None], float | None],
        context_id: int,
        model: str,
        model_version: str,
        priority: Priority | None,
    ) -> None:
        self._requests = requests
        self._timeout = timeout
        self._id = context_id
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
        state: bytes | None = None,
        return_state: bool = False,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Appends text or token ids to the context (or neither) and answers the likeliest next words.

        Args: those of `Client.predict`; `state`, if given, replaces what the context remembers.

        Raises:
            DeadlineError: no reply within `timeout_s`. Nobody can tell whether the text was appended, so the context
                is closed: begin another.
            UnavailableError: the stream broke; its contexts are lost.
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
        try:
            return read_prediction(self._requests.ask(streamed_request(self._id, request), self._timeout(timeout_s)))
        except StreamEndedError as ended:
            raise ended.error from None
        except (DeadlineError, KeyboardInterrupt):
            self.close()
            raise

    def close(self) -> None:
        """Lets the server forget the context."""
        if not self._closed:
            self._closed = True
            self._requests.tell(streamed_request(self._id, None, close_context=True))

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
        method: "grpc.aio.StreamStreamMultiCallable[PredictStreamRequest, PredictStreamResponse]",
    ) -> None:
        def start(messages: AsyncIterator[PredictStreamRequest]) -> "AsyncIterator[PredictStreamResponse]":
            return aiter(method(messages))

        self._timeout = connection.timeout
        self._requests: _AsyncRequests = AsyncRequestStream(
            connection, start, join_predictions, connection.max_message_bytes
        )
        self._context_ids = itertools.count(1)

    def context(self, *, model: str = "", model_version: str = "", priority: Priority | None = None) -> "AsyncContext":
        """Begins a context; the server remembers what its predictions append for as long as the stream lives."""
        return AsyncContext(self._requests, self._timeout, next(self._context_ids), model, model_version, priority)

    async def close(self) -> None:
        """Ends the stream, and with it its contexts."""
        await self._requests.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class AsyncContext:
    """A text that grows; the server holds the model's state after it."""

    def __init__(
        self,
        requests: _AsyncRequests,
        timeout: Callable[[float | None], float | None],
        context_id: int,
        model: str,
        model_version: str,
        priority: Priority | None,
    ) -> None:
        self._requests = requests
        self._timeout = timeout
        self._id = context_id
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
        state: bytes | None = None,
        return_state: bool = False,
        timeout_s: float | None = None,
    ) -> Prediction:
        """Appends text or token ids to the context (or neither) and answers the likeliest next words.

        Args: those of `Client.predict`; `state`, if given, replaces what the context remembers.

        Raises:
            DeadlineError: no reply within `timeout_s`. Nobody can tell whether the text was appended, so the context
                is closed: begin another. The same holds where the task is cancelled while it waits.
            UnavailableError: the stream broke; its contexts are lost.
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
        try:
            item = streamed_request(self._id, request)
            return read_prediction(await self._requests.ask(item, self._timeout(timeout_s)))
        except StreamEndedError as ended:
            raise ended.error from None
        except (DeadlineError, asyncio.CancelledError):
            await self.close()
            raise

    async def close(self) -> None:
        """Lets the server forget the context."""
        if not self._closed:
            self._closed = True
            self._requests.tell(streamed_request(self._id, None, close_context=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _check_open(*, closed: bool) -> None:
    if closed:
        raise InvalidRequestError("this context is closed; begin another with stream.context()")
