"""Encodes any number of sentences in calls of bounded size, several of them at once, results in order."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from hiddenstate.connection import Connection
from hiddenstate.errors import InvalidRequestError, ModelChangedError
from hiddenstate.refusals import BYTES, refusal
from hiddenstate.replies import read_encoded
from hiddenstate.results import EncodedBatch
from hiddenstate.sentence_errors import among_all

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest, EncodeResponse

CALLS_IN_FLIGHT = 4  # keeps the server busy while replies travel, without crowding out others

# The dimension of no sentences at all is the model's, and only a vector of its own tells it.
_STAND_IN = ("x",)


class _Call(Protocol):
    def result(self) -> "EncodeResponse": ...
    def cancel(self) -> object: ...


def encode_calls(
    connection: Connection,
    requests: "Iterable[EncodeRequest]",
    start: "Callable[[EncodeRequest], _Call]",
) -> Iterator[EncodedBatch]:
    """Makes the calls and yields their results in the order of the requests.

    Raises:
        ModelChangedError: a reply came from another version than the one before.
        HiddenstateError: a call failed; the others are cancelled.
    """
    same_model = _SameModel()
    running: deque[tuple[EncodeRequest, _Call]] = deque()
    first = 0  # of the sentences that go first now, among all

    def finish() -> EncodedBatch:
        nonlocal first
        request, call = running[0]
        try:
            with connection.calling():
                response = call.result()
        except InvalidRequestError as error:
            raise among_all(error, first) from error.__cause__
        running.popleft()
        first += len(request.sentences)
        return same_model.check(read_encoded(response, len(request.sentences)))

    try:
        for request in requests:
            if len(running) == CALLS_IN_FLIGHT:
                yield finish()
            with connection.calling():
                running.append((request, start(request)))
        while running:
            yield finish()
    finally:
        for _, call in running:
            call.cancel()


async def encode_calls_async(
    connection: Connection,
    requests: "Iterable[EncodeRequest]",
    start: "Callable[[EncodeRequest], asyncio.Task[EncodeResponse]]",
) -> AsyncIterator[EncodedBatch]:
    """Makes the calls and yields their results in the order of the requests.

    Raises:
        ModelChangedError: a reply came from another version than the one before.
        HiddenstateError: a call failed; the others are cancelled.
    """
    same_model = _SameModel()
    running: deque[tuple[EncodeRequest, asyncio.Task[EncodeResponse]]] = deque()
    first = 0  # of the sentences that go first now, among all

    async def finish() -> EncodedBatch:
        nonlocal first
        request, call = running[0]
        try:
            with connection.calling():
                response = await call
        except InvalidRequestError as error:
            raise among_all(error, first) from error.__cause__
        running.popleft()
        first += len(request.sentences)
        return same_model.check(read_encoded(response, len(request.sentences)))

    try:
        for request in requests:
            if len(running) == CALLS_IN_FLIGHT:
                yield await finish()
            with connection.calling():
                running.append((request, start(request)))
        while running:
            yield await finish()
    finally:
        for _, call in running:
            call.cancel()
        await asyncio.gather(*(call for _, call in running), return_exceptions=True)  # all have ended


def at_least_one(sentences: Iterable[str] | str) -> tuple[Sequence[str], int]:
    """Returns the sentences to send, and how many of their vectors were asked for.

    Raises:
        InvalidRequestError: they are no sentences.
    """
    if isinstance(sentences, BYTES):  # which are numbers to Python
        raise InvalidRequestError(refusal("sentences", sentences))
    try:
        sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    except TypeError:
        if isinstance(sentences, Iterable):  # the caller's own error
            raise
        raise InvalidRequestError(refusal("sentences", sentences)) from None
    return sentences or _STAND_IN, len(sentences)


def stack(batches: Sequence[EncodedBatch], count: int) -> "NDArray[np.float32]":
    """Puts the vectors of all batches under each other and keeps `count`: float32 [count, dimension]."""
    import numpy as np  # here, since it is a quarter of the time that `import hiddenstate` takes

    return np.concatenate([batch.embeddings for batch in batches])[:count]


class _SameModel:
    """Vectors of two models have nothing to do with each other: they must not get into one array."""

    def __init__(self) -> None:
        self._model: str | None = None

    def check(self, batch: EncodedBatch) -> EncodedBatch:
        model = f"{batch.model} {batch.model_version} with {batch.embeddings.shape[1]} components"
        self._model = self._model or model
        if model != self._model:
            raise ModelChangedError(
                f"the server changed from {self._model} to {model} meanwhile: encode again, or name a model_version"
            )
        return batch
