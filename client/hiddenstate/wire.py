"""Requests as the bytes that protobuf would make of them, without message objects, which cost more than all the rest.

What a request asks for is written where it is made. A stream puts its number and its time limit to it, and may do so
again: another stream gives another number. Tests hold what is written against what protobuf reads from it.
"""

from collections.abc import Sequence
from functools import lru_cache

from google.protobuf.message import Message

VARINT, LENGTH = 0, 2  # wire types

_MOST_MS = 2**32 - 1
_MOST_S = 4e6  # 46 days
_STAMP = 11  # bytes at most of when a message is sent


class Envelope:
    """Makes messages of the requests of one method's streams."""

    def __init__(self, message: type[Message], request: type[Message]) -> None:
        """`message` has `sent_at_us` and `requests`, each a `request` with `request_id` and `timeout_ms`."""
        self._requests = tag(message, "requests", LENGTH)
        self._sent_at_us = tag(message, "sent_at_us", VARINT)
        self._request_id = tag(request, "request_id", VARINT)
        self._timeout_ms = tag(request, "timeout_ms", VARINT)

    def seal(self, request: bytes, request_id: int, timeout_s: float | None) -> bytes:
        """Returns a message of one request, a timeout of None being left to the stream; to be sent by `join`."""
        if timeout_s is not None:
            request += self._timeout_ms + _milliseconds(timeout_s)
        request += self._request_id + varint(request_id)
        return self._requests + varint(len(request)) + request

    def join(self, messages: Sequence[bytes], now_us: int, most_bytes: int) -> bytes:
        """Returns a message of all requests of some; `now_us`, when it is sent, is left out where that does not fit."""
        message = b"".join(messages)
        return message if len(message) > most_bytes - _STAMP else message + self._sent_at_us + varint(now_us)


def varint(number: int) -> bytes:
    """Returns a number of 0 or more as protobuf writes it."""
    if number < len(_SHORT):
        return _SHORT[number]
    return _CONTINUED[number & 0x7F] + varint(number >> 7)


def tag(message: type[Message], field: str, wire_type: int) -> bytes:
    """Returns what stands before a field's value."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | wire_type)


def delimited(tag: bytes, body: bytes) -> bytes:
    """Returns a field of text, bytes or a message."""
    return tag + varint(len(body)) + body


@lru_cache(maxsize=64)  # most calls have the client's own timeout
def _milliseconds(seconds: float) -> bytes:
    """Returns whole milliseconds, rounded up: 0 would be no time at all."""
    return varint(int(seconds * 1000) + 1 if 0 < seconds < _MOST_S else _MOST_MS if seconds > 0 else 1)


_CONTINUED = [bytes((number | 0x80,)) for number in range(0x80)]
_SHORT = [bytes((number,)) for number in range(0x80)]
_SHORT += [_CONTINUED[number & 0x7F] + _SHORT[number >> 7] for number in range(0x80, 1 << 11)]
