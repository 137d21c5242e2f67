"""A text that is being generated, word by word.

Where its server is gone, another one is asked for the same text: the seed is the client's, so that it comes again, and
the words that have come are passed over.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import grpc

from hiddenstate.connection import Connection
from hiddenstate.errors import HiddenstateError, ModelChangedError, UnavailableError, stream_error
from hiddenstate.replies import read_finish_reason, read_usage, read_word
from hiddenstate.results import FinishReason, GeneratedWord, Usage
from hiddenstate.retries import RETRIED, Clock, Retries, in_words
from hiddenstate.streaming import StreamEndedError
from hiddenstate.text import join_words

if TYPE_CHECKING:
    import grpc.aio

    from hiddenstate.v1.language_model_pb2 import GenerateRequest, GenerateResponse


class _Call(Iterable["GenerateResponse"], Protocol):
    def cancel(self) -> bool: ...


class _Text:
    """What has come of a text, and when it is asked for again. What the last reply tells is None until it has come."""

    def __init__(self, connection: Connection, request: "GenerateRequest", timeout_s: float | None) -> None:
        if not request.HasField("seed"):
            request.seed = secrets.randbits(63)
        self.seed: int = request.seed
        self.finish_reason: FinishReason | None = None
        self.state: bytes | None = None
        self.usage: Usage | None = None
        self._connection = connection
        self._request = request
        self._clock = Clock(timeout_s)
        self._retries = Retries(RETRIED, connection.budget)
        self._closed = False
        self._is_over = False  # whether the call has ended as it should
        self._words: list[str] = []  # that have come
        self._token_ids: list[int] = []  # of all replies that have come
        self._repeated = 0  # those of them that the server which is asked now has repeated

    def _read(self, response: "GenerateResponse") -> GeneratedWord | None:
        """Returns the word of a reply; None where it came before, or there is none."""
        if self._repeated < len(self._token_ids):
            self._check_repeated(response)
            return None
        self._token_ids.append(response.token_id)
        self._repeated += 1
        self.finish_reason = read_finish_reason(response)
        self.usage = read_usage(response.usage)
        if self.finish_reason is not None:
            self.state = response.state or None
            self._connection.budget.earn(1)
        word = read_word(response)
        if word is not None:
            self._words.append(word.word)
        return word

    def _check_repeated(self, response: "GenerateResponse") -> None:
        if response.token_id != self._token_ids[self._repeated] or read_finish_reason(response) is not None:
            raise ModelChangedError(
                f"the server that went on begins this text with other words than the one before at "
                f"{self._connection.address}, as another version of the model does: start over, or name model_version"
            )
        self._repeated += 1

    def _pause(self, error: HiddenstateError) -> float:
        """Returns the seconds until the text is asked for again.

        Raises:
            HiddenstateError: it is not.
        """
        if self._closed or self._connection.closed:
            raise error
        if isinstance(error.__cause__, grpc.RpcError):
            has_begun = bool(self._token_ids)
            cause, connection = error.__cause__, self._connection
            error = stream_error(cause, connection.address) if has_begun else in_words(error, connection)
        self._repeated = 0
        if isinstance(error, UnavailableError):
            ended = StreamEndedError(error, worked=bool(self._token_ids))
            return self._retries.pause(ended, self._clock.left_s()) or 0.0
        return self._retries.back_off(error, self._clock.left_s())


class Generation(_Text, Iterator[GeneratedWord]):
    """Iterates over the words as they are generated; leaving early (`close`, or `with`) stops the server's work.

    Each word comes once: a text that was iterated over has none left, as with any iterator. `text()` has them all.
    `seed` gives the same text again, also one that was left early. Once all words are taken, `finish_reason`, `usage`
    and, if it was asked for, `state` are set.
    """

    def __init__(
        self,
        connection: Connection,
        start: Callable[["GenerateRequest", float | None], _Call],
        request: "GenerateRequest",
        timeout_s: float | None,
    ) -> None:
        """Starts the call. `start` does it, with a timeout in seconds."""
        super().__init__(connection, request, timeout_s)
        self._start = start
        self._call = self._begin()

    def __next__(self) -> GeneratedWord:
        """Waits for the next word.

        Raises:
            ModelChangedError: a server failed, and the one that went on has another text.
            HiddenstateError: the call failed; the words that came before still hold.
        """
        if self._is_over:
            raise StopIteration
        while True:
            try:
                with self._connection.calling():
                    for response in self._call:
                        if word := self._read(response):
                            return word
                self._is_over = True
                raise StopIteration
            except HiddenstateError as error:
                pause_s = self._pause(error)
            time.sleep(pause_s)
            self._call = self._begin()

    def text(self) -> str:
        """Waits for the words that are left, and joins all of the text, also what was taken before."""
        for _ in self:
            pass
        return join_words(self._words)

    def close(self) -> None:
        """Stops generating."""
        self._closed = True
        self._call.cancel()

    def _begin(self) -> _Call:
        with self._connection.calling():
            call = self._start(self._request, self._clock.left())
        if self._closed:  # by another thread
            call.cancel()
        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncGeneration(_Text, AsyncIterator[GeneratedWord]):
    """Iterates over the words as they are generated; leaving early (`close`, or `async with`) stops the server's work.

    Each word comes once: a text that was iterated over has none left, as with any iterator. `text()` has them all.
    `seed` gives the same text again, also one that was left early. Once all words are taken, `finish_reason`, `usage`
    and, if it was asked for, `state` are set.
    """

    def __init__(
        self,
        connection: Connection,
        start: Callable[
            ["GenerateRequest", float | None], "grpc.aio.UnaryStreamCall[GenerateRequest, GenerateResponse]"
        ],
        request: "GenerateRequest",
        timeout_s: float | None,
    ) -> None:
        """Starts the call. `start` does it, with a timeout in seconds."""
        super().__init__(connection, request, timeout_s)
        self._start = start
        self._begin()

    async def __anext__(self) -> GeneratedWord:
        """Waits for the next word.

        Raises:
            ModelChangedError: a server failed, and the one that went on has another text.
            HiddenstateError: the call failed; the words that came before still hold.
        """
        if self._is_over:
            raise StopAsyncIteration
        while True:
            try:
                with self._connection.calling():
                    async for response in self._responses:
                        if word := self._read(response):
                            return word
                self._is_over = True
                raise StopAsyncIteration
            except HiddenstateError as error:
                pause_s = self._pause(error)
            await asyncio.sleep(pause_s)
            self._begin()

    async def text(self) -> str:
        """Waits for the words that are left, and joins all of the text, also what was taken before."""
        async for _ in self:
            pass
        return join_words(self._words)

    async def close(self) -> None:
        """Stops generating."""
        self._closed = True
        self._call.cancel()

    def _begin(self) -> None:
        with self._connection.calling():
            self._call = self._start(self._request, self._clock.left())
        self._responses = aiter(self._call)
        if self._closed:  # by another task
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
