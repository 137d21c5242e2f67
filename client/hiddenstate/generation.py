"""A text that is being generated, word by word."""

from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from hiddenstate.connection import Connection
from hiddenstate.replies import read_finish_reason, read_usage, read_word
from hiddenstate.results import FinishReason, GeneratedWord, Usage
from hiddenstate.text import join_words

if TYPE_CHECKING:
    import grpc.aio

    from hiddenstate.v1.language_model_pb2 import GenerateRequest, GenerateResponse


class _Call(Iterable["GenerateResponse"], Protocol):
    def cancel(self) -> bool: ...


class _Ending:
    """What the last reply of a generation tells; None until it has come."""

    def __init__(self) -> None:
        self.finish_reason: FinishReason | None = None
        self.seed: int | None = None
        self.state: bytes | None = None
        self.usage: Usage | None = None

    def _read(self, response: "GenerateResponse") -> GeneratedWord | None:
        self.finish_reason = read_finish_reason(response)
        self.usage = read_usage(response.usage)
        if self.finish_reason is not None:
            self.seed = response.seed
            self.state = response.state or None
        return read_word(response)


class Generation(_Ending, Iterator[GeneratedWord]):
    """Iterates over the words as they are generated; leaving early (`close`, or `with`) stops the server's work.

    Once all words are taken, `finish_reason`, `seed`, `usage` and, if it was asked for, `state` are set.
    """

    def __init__(self, connection: Connection, call: _Call) -> None:
        super().__init__()
        self._connection = connection
        self._call = call

    def __next__(self) -> GeneratedWord:
        """Waits for the next word.

        Raises:
            HiddenstateError: the call failed; the words that came before still hold.
        """
        with self._connection.calling():
            for response in self._call:
                if word := self._read(response):
                    return word
        raise StopIteration

    def text(self) -> str:
        """Waits for all words that are left and joins them as text."""
        return join_words(word.word for word in self)

    def close(self) -> None:
        """Stops generating."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncGeneration(_Ending, AsyncIterator[GeneratedWord]):
    """Iterates over the words as they are generated; leaving early (`close`, or `async with`) stops the server's work.

    Once all words are taken, `finish_reason`, `seed`, `usage` and, if it was asked for, `state` are set.
    """

    def __init__(
        self, connection: Connection, call: "grpc.aio.UnaryStreamCall[GenerateRequest, GenerateResponse]"
    ) -> None:
        super().__init__()
        self._connection = connection
        self._call = call
        self._responses = aiter(call)

    async def __anext__(self) -> GeneratedWord:
        """Waits for the next word.

        Raises:
            HiddenstateError: the call failed; the words that came before still hold.
        """
        with self._connection.calling():
            async for response in self._responses:
                if word := self._read(response):
                    return word
        raise StopAsyncIteration

    async def text(self) -> str:
        """Waits for all words that are left and joins them as text."""
        return join_words([word.word async for word in self])

    async def close(self) -> None:
        """Stops generating."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
