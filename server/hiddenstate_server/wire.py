"""The replies that are sent most, written as the bytes that protobuf would make of them, without message objects.

Numbers of fields are read off the messages' own descriptors, and tests hold every reply against what protobuf reads
from it.
"""

import struct
from collections.abc import Collection, Sequence
from typing import Protocol

from google.protobuf.message import Message

from hiddenstate.v1.language_model_pb2 import Candidate, PredictResponse, PredictStreamResponse, StreamedPredictResponse
from hiddenstate.v1.sentence_encoder_pb2 import EncodeResponse
from hiddenstate.v1.usage_pb2 import Usage as UsageMessage
from hiddenstate.wire import LENGTH, VARINT, tag
from hiddenstate_server.results import Usage

_FIXED32 = 5  # a wire type


class Named(Protocol):
    """A model, as far as a response names it."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...


# The client has these two as well (hiddenstate/wire.py); here they are compiled.
def varint(number: int) -> bytes:
    """Returns a number of 0 or more as protobuf writes it."""
    if number < len(_SHORT):
        return _SHORT[number]
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _two_bytes(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])


_SHORT = [_two_bytes(number) for number in range(1 << 14)]


def delimited(before: bytes, body: bytes) -> bytes:
    """Returns a field of text, bytes or a message."""
    return before + varint(len(body)) + body


_RESPONSES = tag(PredictStreamResponse, "responses", LENGTH)  # both streams have the same
_REQUEST_ID = tag(StreamedPredictResponse, "request_id", VARINT)
_RESPONSE = tag(StreamedPredictResponse, "response", LENGTH)
_ERROR = tag(StreamedPredictResponse, "error", LENGTH)
_CANDIDATES = tag(PredictResponse, "candidates", LENGTH)
_STATE = tag(PredictResponse, "state", LENGTH)
_PREDICT_USAGE = tag(PredictResponse, "usage", LENGTH)
_ENCODE_USAGE = tag(EncodeResponse, "usage", LENGTH)
_EMBEDDINGS = tag(EncodeResponse, "embeddings", LENGTH)
_COUNT = tag(EncodeResponse, "count", VARINT)
_TRUNCATED = tag(EncodeResponse, "truncated", VARINT)
_COMPUTED, _REUSED, _QUEUE, _COMPUTE = (
    tag(UsageMessage, field, VARINT)
    for field in ("tokens_computed", "tokens_reused", "queue_time_us", "compute_time_us")
)


def streamed(request_id: int, response: bytes | None, error: bytes | None = None) -> bytes:
    """Returns one reply of a stream: a response, or the error why there is none, or neither where a context was only
    closed. Both are given as bytes.
    """
    reply = _REQUEST_ID + varint(request_id) if request_id else b""
    if response is not None:
        reply += delimited(_RESPONSE, response)
    elif error is not None:
        reply += delimited(_ERROR, error)
    return delimited(_RESPONSES, reply)


class PredictionWriter:
    """Writes the PredictResponses of one model."""

    __slots__ = ("_heads", "_model")

    def __init__(self, model: Named, words: Sequence[str], hidden_token_ids: Collection[int]) -> None:
        """Tokens of `hidden_token_ids` are no candidates."""
        self._model = _names(PredictResponse, model)
        self._heads = [
            None if token_id in hidden_token_ids else _candidate_head(word, token_id)
            for token_id, word in enumerate(words)
        ]

    def write(self, ids: list[int], log_probs: bytes, top_k: int, state: bytes, usage: Usage) -> bytes:
        """Returns a response with up to `top_k` of the tokens `ids` [k], likeliest first.

        `log_probs` are theirs, float32 [k]; what is not finite marks what is none.
        """
        parts: list[bytes] = []
        for rank, token_id in enumerate(ids):
            head = self._heads[token_id]
            if head is not None and _is_finite(log_probs, 4 * rank):
                parts.append(head)
                parts.append(log_probs[4 * rank : 4 * rank + 4])
                if len(parts) == 2 * top_k:
                    break
        if state:
            parts.append(delimited(_STATE, state))
        parts.append(delimited(_PREDICT_USAGE, _usage(usage)))
        parts.append(self._model)
        return b"".join(parts)


class EncodingWriter:
    """Writes the EncodeResponses of one model."""

    __slots__ = ("_model",)

    def __init__(self, model: Named, dimension: int) -> None:
        dimensions = tag(EncodeResponse, "dimension", VARINT) + varint(dimension)
        self._model = dimensions + _names(EncodeResponse, model)

    def write(self, vectors: list[bytes], truncated: int, usage: Usage) -> bytes:
        """Returns a response with vectors, float32 [dimension] each."""
        values = vectors[0] if len(vectors) == 1 else b"".join(vectors)
        return b"".join(
            (
                _EMBEDDINGS,
                varint(len(values)),
                values,
                _COUNT,
                varint(len(vectors)),
                delimited(_ENCODE_USAGE, _usage(usage)),
                _TRUNCATED + varint(truncated) if truncated else b"",
                self._model,
            )
        )


def _is_finite(values: bytes, at: int) -> bool:
    """Tells whether a float32 is a number: in what is none, all bits of the exponent are set."""
    return values[at + 3] & 0x7F != 0x7F or values[at + 2] < 0x80


def _candidate_head(word: str, token_id: int) -> bytes:
    """Returns a candidate's bytes up to the four of its log probability."""
    fields = delimited(tag(Candidate, "word", LENGTH), word.encode())
    fields += tag(Candidate, "token_id", VARINT) + varint(token_id) + tag(Candidate, "log_prob", _FIXED32)
    return _CANDIDATES + varint(len(fields) + struct.calcsize("<f")) + fields


def _names(message: type[Message], model: Named) -> bytes:
    name = delimited(tag(message, "model", LENGTH), model.name.encode())
    return name + delimited(tag(message, "model_version", LENGTH), model.version.encode())


def _usage(usage: Usage) -> bytes:
    return b"".join(
        (
            _COMPUTED,
            varint(usage.tokens_computed),
            _REUSED,
            varint(usage.tokens_reused),
            _QUEUE,
            varint(usage.queue_time_us),
            _COMPUTE,
            varint(usage.compute_time_us),
        )
    )
