"""What one EncodeStream answers."""

from collections.abc import Coroutine
from typing import Any

from hiddenstate.v1.sentence_encoder_pb2 import StreamedEncodeRequest
from hiddenstate_server.messages import read_is_bulk, read_truncate
from hiddenstate_server.repository import Repository
from hiddenstate_server.sentence_encoder import EncodingWork, SentenceEncoder, count_characters
from hiddenstate_server.streams import Answer, Answered, Arrived, Lane, deadline_of
from hiddenstate_server.tokenizer import LONG_TEXT


class EncodeRequests:
    """Answers the requests of one stream, none of which waits for another."""

    __slots__ = ("_deadline", "_repository")

    def __init__(self, repository: Repository, *, deadline: float) -> None:
        self._repository = repository
        self._deadline = deadline

    def weight(self, request: StreamedEncodeRequest) -> int:
        """Counts sentences: each takes a vector's memory until the reply is written."""
        return max(1, len(request.encode.sentences))

    def lane(self, request: StreamedEncodeRequest) -> Lane | None:
        """Returns None: no request waits for another."""
        return None

    def begin(self, arrived: Arrived, lane: Lane | None, answered: Answered) -> Coroutine[Any, Any, None] | None:
        """Begins to encode the sentences of a request.

        Raises:
            ServingError: see errors.py.
        """
        encode = arrived.request.encode
        model = self._repository.sentence_encoder(encode.model, encode.model_version)
        truncate, is_bulk, deadline = read_truncate(encode), read_is_bulk(encode), deadline_of(arrived, self._deadline)
        sentences = encode.sentences
        characters = count_characters(sentences)
        refusal = model.refusal(sentences, characters, deadline, is_bulk)
        if refusal is not None:
            answered(arrived, lane, refusal)
        elif characters > LONG_TEXT:
            return _submit_when_ready(model.encoding(sentences, truncate, deadline, is_bulk), model, arrived, answered)
        else:
            work = model.encoding_now(sentences, characters, truncate, deadline, is_bulk)
            _submit(work, model, arrived, answered)
        return None


async def _submit_when_ready(
    coming: Coroutine[Any, Any, EncodingWork], model: SentenceEncoder, arrived: Arrived, answered: Answered
) -> None:
    _submit(await coming, model, arrived, answered)


def _submit(request: EncodingWork, model: SentenceEncoder, arrived: Arrived, answered: Answered) -> None:
    arrived.works = request.works
    told = _Asked(request, model, arrived, answered).told
    for work in request.works:
        work.told = told
    model.scheduler.submit(request.works)


class _Asked:
    """What is told when a sentence of a request is over; it answers with the last."""

    __slots__ = ("_answered", "_arrived", "_left", "_model", "_request")

    def __init__(self, request: EncodingWork, model: SentenceEncoder, arrived: Arrived, answered: Answered) -> None:
        self._left = len(request.works)
        self._request = request
        self._model = model
        self._arrived = arrived
        self._answered = answered

    def told(self, over: bool) -> None:
        """Counts a sentence, and answers once it is the last."""
        self._left -= 1
        if self._left:
            return
        works = self._request.works
        if works[0].abandoned:  # the stream has ended
            return
        try:
            for work in works:
                if work.error is not None:
                    raise work.error
            answer: Answer = self._model.response(self._request)
        except Exception as error:
            answer = error
        self._answered(self._arrived, None, answer)
