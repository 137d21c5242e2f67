"""What one EncodeStream answers."""

from collections.abc import Coroutine
from functools import partial
from typing import Any

from hiddenstate.v1.sentence_encoder_pb2 import StreamedEncodeRequest
from hiddenstate_server.messages import read_is_bulk, read_truncate
from hiddenstate_server.repository import Repository
from hiddenstate_server.sentence_encoder import EncodingWork, SentenceEncoder, is_long
from hiddenstate_server.streams import Answer, Answered, Arrived, Lane, deadline_of


class EncodeRequests:
    """Answers the requests of one stream, none of which waits for another."""

    def __init__(self, repository: Repository, *, deadline: float) -> None:
        self._repository = repository
        self._deadline = deadline

    def weight(self, request: StreamedEncodeRequest) -> int:
        """Counts sentences: each takes a vector's memory until the reply is written."""
        return max(1, len(request.encode.sentences))

    def lane(self, request: StreamedEncodeRequest) -> Lane[StreamedEncodeRequest] | None:
        """Returns None: no request waits for another."""
        return None

    def begin(
        self,
        arrived: Arrived[StreamedEncodeRequest],
        lane: Lane[StreamedEncodeRequest] | None,
        answered: Answered,
    ) -> Coroutine[Any, Any, None] | None:
        """Begins to encode the sentences of a request.

        Raises:
            ServingError: see errors.py.
        """
        encode = arrived.request.encode
        model = self._repository.sentence_encoder(encode.model, encode.model_version)
        truncate, is_bulk, deadline = read_truncate(encode), read_is_bulk(encode), deadline_of(arrived, self._deadline)
        if is_long(encode.sentences):
            coming = model.encoding(encode.sentences, truncate=truncate, deadline=deadline, is_bulk=is_bulk)
            return _submit_when_ready(coming, model, arrived, answered)
        request = model.encoding_now(encode.sentences, truncate=truncate, deadline=deadline, is_bulk=is_bulk)
        _submit(request, model, arrived, answered)
        return None


async def _submit_when_ready(
    coming: Coroutine[Any, Any, EncodingWork],
    model: SentenceEncoder,
    arrived: Arrived[StreamedEncodeRequest],
    answered: Answered,
) -> None:
    _submit(await coming, model, arrived, answered)


def _submit(
    request: EncodingWork, model: SentenceEncoder, arrived: Arrived[StreamedEncodeRequest], answered: Answered
) -> None:
    arrived.works = request.works
    if len(request.works) == 1:
        request.works[0].told = partial(_answer, request, model, arrived, answered)
    else:
        told = _Countdown(len(request.works), partial(_answer, request, model, arrived, answered, True))
        for work in request.works:
            work.told = told
    model.scheduler.submit(request.works)


class _Countdown:
    """Calls `then` when all of a request's sentences are over."""

    __slots__ = ("_left", "_then")

    def __init__(self, left: int, then: partial[None]) -> None:
        self._left = left
        self._then = then

    def __call__(self, over: bool) -> None:
        self._left -= 1
        if not self._left:
            self._then()


def _answer(
    request: EncodingWork,
    model: SentenceEncoder,
    arrived: Arrived[StreamedEncodeRequest],
    answered: Answered,
    over: bool,
) -> None:
    if request.works[0].abandoned:  # the stream has ended
        return
    answer: Answer = next((work.error for work in request.works if work.error), None)
    try:
        answer = answer or model.response(request)
    except Exception as error:
        answer = error
    answered(arrived, None, answer)
