"""HTTP/2 as far as load generators need it, at a small part of what a gRPC client costs.

It writes frames itself: one HEADERS frame begins a call, DATA frames follow. Of what comes it looks at frames' heads
only, and gives DATA to those who want it.
"""

import asyncio
import struct
from typing import cast

DATA, HEADERS, RESET = 0x0, 0x1, 0x3
_SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0x4, 0x6, 0x7, 0x8
END_STREAM, _ACK, END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW = 0x4  # a setting
FIRST_WINDOW = 65_535
_LARGEST_WINDOW = 2**31 - 1
_FRAME = struct.Struct(">HBBBL")  # length (high 16 bits, low 8), type, flags, stream
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Http2Connection(asyncio.Protocol):
    """A connection. What becomes of its calls is told to the methods that a class of its own overrides."""

    def __init__(self) -> None:
        self.window = FIRST_WINDOW  # bytes of DATA that the server takes now
        self.stream_window = FIRST_WINDOW  # those that it takes of a new call
        self._rest = b""  # of a frame that has not come as a whole
        self._taken = 0  # bytes of DATA since the server was last given a larger window
        self._transport: asyncio.Transport

    def frame_received(self, kind: int, flags: int, stream: int, body: bytes) -> bytes:
        """Takes a frame of a call, and returns what is to be sent back."""
        raise NotImplementedError

    def widened(self, stream: int, more: int) -> None:
        """Hears that the server takes more bytes, of the call or (stream 0) in all."""
        raise NotImplementedError

    def write(self, frames: bytes) -> None:
        """Sends frames."""
        self._transport.write(frames)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class
        settings = struct.pack(">HLHL", 0x1, 0, _INITIAL_WINDOW, _LARGEST_WINDOW)  # no table of headers
        more = struct.pack(">L", _LARGEST_WINDOW - FIRST_WINDOW)
        self.write(_PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW_UPDATE, 0, 0, more))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, length, out = 0, len(data), []
        while length - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            end = at + 9 + (high << 8 | low)
            if end > length:
                break
            out.append(self._frame(kind, flags, stream, data[at + 9 : end]))
            at = end
        self._rest = data[at:]
        if answer := b"".join(out):
            self.write(answer)

    def _frame(self, kind: int, flags: int, stream: int, body: bytes) -> bytes:
        if kind in (DATA, HEADERS, RESET):
            out = self.frame_received(kind, flags, stream, body)
            return out + self._widen(stream, len(body)) if kind == DATA else out
        if kind == _SETTINGS and not flags & _ACK:
            self._set(body)
            return frame(_SETTINGS, _ACK, 0, b"")
        if kind == _PING and not flags & _ACK:
            return frame(_PING, _ACK, 0, body)
        if kind == _WINDOW_UPDATE:
            more = int.from_bytes(body, "big")
            if not stream:
                self.window += more
            self.widened(stream, more)
        if kind == _GOAWAY:
            raise ConnectionError(f"the server ended the connection: {body[8:]!r}")
        return b""

    def _set(self, settings: bytes) -> None:
        for name, value in struct.iter_unpack(">HL", settings):
            if name == _INITIAL_WINDOW:
                more, self.stream_window = value - self.stream_window, value
                self.widened(-1, more)

    def _widen(self, stream: int, taken: int) -> bytes:
        """Lets the server send more before it comes to the end of what it may, with one long call or with many."""
        self._taken += taken
        if self._taken < _LARGEST_WINDOW // 2:
            return b""
        more, self._taken = struct.pack(">L", self._taken), 0
        return frame(_WINDOW_UPDATE, 0, 0, more) + frame(_WINDOW_UPDATE, 0, stream, more)


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """Returns a frame."""
    return _FRAME.pack(len(body) >> 8, len(body) & 0xFF, kind, flags, stream) + body


def request_headers(method: str, timeout_s: float | None = None) -> bytes:
    """Encodes a request's headers, none of them into the table that both sides would have to keep."""
    headers = b"\x83\x86"  # :method POST, :scheme http
    headers += b"\x04" + _text(method) + b"\x01" + _text("127.0.0.1")
    headers += b"\x0f\x10" + _text("application/grpc") + b"\x00" + _text("te") + _text("trailers")
    if timeout_s is not None:
        headers += b"\x00" + _text("grpc-timeout") + _text(f"{round(timeout_s * 1000)}m")
    return headers


def grpc_message(message: bytes) -> bytes:
    """Returns a message as DATA frames carry it."""
    return struct.pack(">BL", 0, len(message)) + message


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
