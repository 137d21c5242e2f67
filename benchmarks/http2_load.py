"""Unary gRPC calls at a small part of what a gRPC client costs, so that the load generator is not what is measured.

It writes the frames of HTTP/2 itself: a call is one HEADERS frame, always the same but for the stream's number, and
one DATA frame. Of the answer it looks at frame heads only: a call that ends without DATA was refused.
"""

import asyncio
import collections
import struct
import time
from collections.abc import Iterator, Sequence
from typing import cast

from benchmarks.samples import Samples

_DATA, _HEADERS, _RESET, _SETTINGS = 0x0, 0x1, 0x3, 0x4
_PING, _GOAWAY, _WINDOW_UPDATE = 0x6, 0x7, 0x8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_LARGEST_WINDOW = 2**31 - 1
_FRAME = struct.Struct(">HBBBL")  # length (high 16 bits, low 8), type, flags, stream
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Http2Load(asyncio.Protocol):
    """One connection. Calls go to one method, with the payloads in turn; without payloads no more are begun."""

    def __init__(self, method: str, payloads: Iterator[bytes], timeout_s: float | None = None) -> None:
        self.samples = Samples()
        self.refused = Samples()
        self.closed = asyncio.get_running_loop().create_future()
        self.used_up = asyncio.get_running_loop().create_future()
        self._headers = _request_headers(method, timeout_s)
        self._bodies = (struct.pack(">BL", 0, len(payload)) + payload for payload in payloads)
        self._next_stream = 1
        self._begun: dict[int, float] = {}
        self._window = 65_535  # bytes of DATA that the server takes now
        self._held: collections.deque[tuple[float, bytes]] = collections.deque()  # what it did not take: due, body
        self._answered: set[int] = set()
        self._buffer = bytearray()
        self._again = False
        self._transport: asyncio.Transport

    def keep(self, callers: int) -> None:
        """Begins calls; each that ends is followed by another."""
        self._again = True
        self.begin([time.perf_counter()] * callers)

    def begin(self, dues: Sequence[float]) -> None:
        """Begins calls that were due; their durations count from then."""
        self._transport.write(b"".join([self._next_call(due) for due in dues]))

    @property
    def running(self) -> int:
        """Calls without an answer."""
        return len(self._begun) + len(self._held)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class
        settings = struct.pack(">HLHL", 0x1, 0, 0x4, _LARGEST_WINDOW)  # no header table, a window for all answers
        window = struct.pack(">L", _LARGEST_WINDOW - 65_535)
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, window))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(error)

    def data_received(self, data: bytes) -> None:
        buffer, at, out = self._buffer, 0, []
        buffer += data
        while len(buffer) - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(buffer, at)
            end = at + 9 + (high << 8 | low)
            if end > len(buffer):
                break
            out.append(self._frame_received(kind, flags, stream, bytes(buffer[at + 9 : end]) if kind > 3 else b""))
            at = end
        del buffer[:at]
        if answer := b"".join(out):
            self._transport.write(answer)

    def _frame_received(self, kind: int, flags: int, stream: int, body: bytes) -> bytes:
        """Takes a frame and returns what is to be sent back."""
        if kind == _DATA:
            self._answered.add(stream)
        if kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            return self._end(stream)
        if kind == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK, 0, b"")
        if kind == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, 0, body)
        if kind == _WINDOW_UPDATE and not stream:
            return self._widen(int.from_bytes(body, "big"))
        if kind == _GOAWAY:
            raise ConnectionError(f"the server ended the connection: {body[8:]!r}")
        return b""

    def _end(self, stream: int) -> bytes:
        begun = self._begun.pop(stream, None)
        if begun is None:  # the server resets a stream that it has already answered with a status
            return b""
        seconds = time.perf_counter() - begun
        if stream in self._answered:
            self._answered.remove(stream)
            self.samples.add(seconds)
        else:
            self.refused.add(seconds)
        return self._next_call(time.perf_counter()) if self._again else b""

    def _next_call(self, due: float) -> bytes:
        body = next(self._bodies, None)
        if body is not None:
            return self._call(due, body)
        if not self.used_up.done():
            self.used_up.set_result(None)
        return b""

    def _call(self, due: float, body: bytes) -> bytes:
        """Begins a call, or keeps it until the server takes more."""
        if len(body) > self._window:
            self._held.append((due, body))
            return b""
        self._window -= len(body)
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._begun[stream] = due
        return _frame(_HEADERS, _END_HEADERS, stream, self._headers) + _frame(_DATA, _END_STREAM, stream, body)

    def _widen(self, more: int) -> bytes:
        self._window += more
        held, self._held = self._held, collections.deque()
        return b"".join([self._call(due, body) for due, body in held])


def _request_headers(method: str, timeout_s: float | None) -> bytes:
    """Encodes the request's headers, none of them into the table that both sides would have to keep."""
    headers = b"\x83\x86"  # :method POST, :scheme http
    headers += b"\x04" + _text(method) + b"\x01" + _text("127.0.0.1")
    headers += b"\x0f\x10" + _text("application/grpc") + b"\x00" + _text("te") + _text("trailers")
    if timeout_s is not None:
        headers += b"\x00" + _text("grpc-timeout") + _text(f"{round(timeout_s * 1000)}m")
    return headers


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return _FRAME.pack(len(body) >> 8, len(body) & 0xFF, kind, flags, stream) + body
