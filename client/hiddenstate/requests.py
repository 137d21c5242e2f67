"""Builds requests from plain values. Pure: no connection is needed."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, TypeVar

from google.protobuf.message import Message

from hiddenstate.errors import InvalidRequestError, ModelNotFoundError
from hiddenstate.refusals import BYTES, refusal
from hiddenstate.results import Priority, State
from hiddenstate.v1.language_model_pb2 import (
    GenerateRequest,
    PredictRequest,
    ScoreRequest,
)
from hiddenstate.v1.model_pb2 import GetModelRequest
from hiddenstate.v1.priority_pb2 import PRIORITY_BULK, PRIORITY_INTERACTIVE
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest

M = TypeVar("M", bound=Message)

# Keeps a request of long sentences far below the 4 MiB that gRPC servers accept unless told otherwise.
_MOST_CHARACTERS = 500_000

_REFUSALS = (TypeError, ValueError, OverflowError)  # of protobuf

_ARGUMENTS_OF_MODEL = {"model": "name", "model_version": "version"}

_TEXTS = ("text", "prefix", "model", "model_version", "name", "version")

_PRIORITIES = {None: None, "interactive": PRIORITY_INTERACTIVE, "bulk": PRIORITY_BULK}


def predict_request(
    text: str | None,
    *,
    tokens: Iterable[int] | None,
    top_k: int,
    prefix: str,
    state: State | None,
    return_state: bool,
    model: str = "",
    model_version: str = "",
    priority: Priority | None = None,
) -> PredictRequest:
    """Builds the request of a prediction.

    Raises:
        InvalidRequestError: a value cannot be sent, for example a negative top_k; the message names the field.
    """
    return _build(
        PredictRequest,
        text=text,
        tokens=_token_ids(text, tokens),
        top_k=top_k,
        prefix=prefix,
        state=_state(state),
        return_state=return_state,
        model=model,
        model_version=model_version,
        priority=_priority(priority),
    )


def generate_request(
    text: str | None,
    *,
    tokens: Iterable[int] | None,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    stop_words: Sequence[str],
    state: State | None,
    return_state: bool,
    model: str,
    model_version: str,
    priority: Priority | None,
) -> GenerateRequest:
    """Builds the request of a continuation; None leaves a default to the server.

    Raises:
        InvalidRequestError: a value cannot be sent; the message names the field.
    """
    return _build(
        GenerateRequest,
        text=text,
        tokens=_token_ids(text, tokens),
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_words=_words(stop_words),
        state=_state(state),
        return_state=return_state,
        model=model,
        model_version=model_version,
        priority=_priority(priority),
    )


def score_request(
    text: str | None,
    *,
    tokens: Iterable[int] | None,
    state: State | None,
    model: str,
    model_version: str,
    priority: Priority | None,
) -> ScoreRequest:
    """Builds the request of a score.

    Raises:
        InvalidRequestError: a value cannot be sent; the message names the field.
    """
    return _build(
        ScoreRequest,
        text=text,
        tokens=_token_ids(text, tokens),
        state=_state(state),
        model=model,
        model_version=model_version,
        priority=_priority(priority),
    )


def fits_one_request(sentences: Sequence[str], batch_size: int) -> bool:
    """Tells whether sentences need no cutting into batches, which would find nothing wrong with them either."""
    try:
        if len(sentences) == 1 <= batch_size:  # however long it is
            return type(sentences[0]) is str
        return (
            len(sentences) <= batch_size
            and {str}.issuperset(map(type, sentences))
            and sum(map(len, sentences)) <= _MOST_CHARACTERS
        )
    except TypeError:
        return False  # of batch_size; who cuts says so


def encode_request(
    sentences: Sequence[str],
    *,
    truncate: bool,
    model: str,
    model_version: str,
    priority: Priority | None,
    first: int = 0,
) -> EncodeRequest:
    """Builds a request for some sentences, of which `first` is the place among all.

    Raises:
        InvalidRequestError: a value cannot be sent; the message names it.
    """
    try:
        return _build(
            EncodeRequest,
            sentences=sentences,
            truncate=truncate,
            model=model,
            model_version=model_version,
            priority=_priority(priority),
        )
    except InvalidRequestError:
        if unsendable := _unsendable_sentence(sentences, first):
            raise InvalidRequestError(unsendable) from None
        raise


def encode_requests(
    sentences: Iterable[str],
    *,
    batch_size: int,
    truncate: bool,
    model: str,
    model_version: str,
    priority: Priority | None,
) -> Iterator[EncodeRequest]:
    """Cuts sentences into requests of at most `batch_size` of them, lazily and in order.

    Raises:
        InvalidRequestError: a sentence cannot be sent; the message says which, counted from 0 over all of them. Or
            the sentences are none: a str would be taken for many, of a character each.
    """
    if isinstance(sentences, (str, *BYTES)) or not isinstance(sentences, Iterable):
        raise InvalidRequestError(refusal("sentences", sentences))
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise InvalidRequestError(refusal("batch_size", batch_size))
    first = 0
    for batch in _batches(sentences, batch_size):
        yield encode_request(
            batch, truncate=truncate, model=model, model_version=model_version, priority=priority, first=first
        )
        first += len(batch)


def model_request(name: str, version: str) -> GetModelRequest:
    """Builds the request for one model's description.

    Raises:
        InvalidRequestError: a value cannot be sent, or there is no name.
    """
    if name == "":
        raise InvalidRequestError("name: is empty; models() lists the names")
    return _build(GetModelRequest, name=name, version=version)


@contextmanager
def naming_arguments() -> Iterator[None]:
    """Has an error of `model` begin with its argument: other calls have the same as `model` and `model_version`."""
    try:
        yield
    except ModelNotFoundError as error:
        field, colon, reason = str(error).partition(":")
        raise ModelNotFoundError(_ARGUMENTS_OF_MODEL.get(field, field) + colon + reason) from error.__cause__


def _build(kind: type[M], **fields: Any) -> M:
    """Makes a message; fields that are None stay unset."""
    for name in _TEXTS:
        if isinstance(fields.get(name), BYTES):  # which protobuf would take where they happen to be UTF-8
            raise InvalidRequestError(refusal(name, fields[name]))
    try:
        return kind(**fields)
    except _REFUSALS as error:
        culprit = _culprit(kind, fields)
        raise InvalidRequestError(refusal(culprit, fields.get(culprit), error)) from None


def _culprit(kind: type[Message], fields: dict[str, Any]) -> str:
    """Finds the field that protobuf refuses: its own messages do not name it."""
    for name, value in fields.items():
        try:
            kind(**{name: value})
        except _REFUSALS:
            return name
    return kind.__name__


def _token_ids(text: str | None, tokens: Iterable[int] | None) -> dict[str, Iterable[int]] | None:
    if tokens is None:
        return None
    if text is not None:
        raise InvalidRequestError("tokens: give text or tokens, not both")
    return {"ids": tokens}


def _words(words: Sequence[str] | None) -> list[str]:
    if words is None:
        return []
    if isinstance(words, (str, *BYTES)) or not isinstance(words, Iterable):
        raise InvalidRequestError(refusal("stop_words", words))
    words = list(words)
    if any(isinstance(word, BYTES) for word in words):
        raise InvalidRequestError(refusal("stop_words", words))
    return words


def _state(state: State | None) -> bytes | None:
    if isinstance(state, bytearray | memoryview):
        state = bytes(state)
    # The server would take an empty one for none, and answer without what the caller believes to be there.
    if isinstance(state, bytes) and not state:
        raise InvalidRequestError(refusal("state", state))
    return state


def _priority(priority: Priority | None) -> Any:
    try:
        if priority in _PRIORITIES:
            return _PRIORITIES[priority]
    except TypeError:  # a list, for example, which cannot be looked up
        pass
    raise InvalidRequestError(f"priority: is {priority!r}; it must be 'interactive' or 'bulk'")


def _batches(sentences: Iterable[str], batch_size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for index, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise InvalidRequestError(refusal(f"sentences[{index}]", sentence))
        if batch and (len(batch) == batch_size or characters + len(sentence) > _MOST_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(sentence)
        characters += len(sentence)
    if batch:
        yield batch


def _unsendable_sentence(batch: Sequence[str], first: int) -> str | None:
    for index, sentence in zip(itertools.count(first), batch, strict=False):
        try:
            EncodeRequest(sentences=[sentence])
        except _REFUSALS as error:
            return refusal(f"sentences[{index}]", sentence, error)
    return None
