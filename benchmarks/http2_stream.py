"""One streaming gRPC call on a connection of its own, at a small part of what a gRPC client costs."""

import asyncio
import struct

from benchmarks import http2

_STREAM = 1
_MOST_DATA = 16_384  # bytes of a frame that every server takes


class Http2Stream(http2.Http2Connection):
    """A call. `ended` is done when the server ends it, with the reason if that is known."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._headers = http2.request_headers(method)
        self._left = 0  # bytes that the server takes of this call now
        self._unsent = b""  # messages that have been begun, and how much of them has left
        self._sent = 0
        self._received = b""  # of a message that has not come as a whole

    def message_received(self, message: bytes) -> None:
        """Takes a message."""
        raise NotImplementedError

    def all_sent(self) -> None:
        """Hears that the server has taken what it was sent so far."""
        raise NotImplementedError

    @property
    def is_sending(self) -> bool:
        """Whether the server has not taken all that it was sent."""
        return bool(self._unsent)

    def send(self, message: bytes) -> None:
        """Sends a message."""
        self._unsent, self._sent = self._unsent[self._sent :] + http2.grpc_message(message), 0
        self.write(self._send())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._left = self.stream_window
        self.write(http2.frame(http2.HEADERS, http2.END_HEADERS, _STREAM, self._headers))

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"the connection was lost: {error!r}")

    def frame_received(self, kind: int, flags: int, stream: int, body: bytes) -> bytes:
        """Takes a frame of the call."""
        if kind == http2.DATA:
            self._take(body)
        if kind == http2.RESET or flags & http2.END_STREAM:
            self._end("the server ended it")
        return b""

    def widened(self, stream: int, more: int) -> None:
        """Sends what had to wait."""
        if stream:
            self._left += more
        self.write(self._send())  # before what all_sent sends
        if not self._unsent:
            self.all_sent()

    def _send(self) -> bytes:
        out = []
        while size := max(0, min(len(self._unsent) - self._sent, self._left, self.window, _MOST_DATA)):
            out.append(http2.frame(http2.DATA, 0, _STREAM, self._unsent[self._sent : self._sent + size]))
            self._sent += size
            self._left -= size
            self.window -= size
        if self._sent == len(self._unsent):
            self._unsent, self._sent = b"", 0
        return b"".join(out)

    def _take(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        at = 0
        while len(data) - at >= 5:
            (size,) = struct.unpack_from(">L", data, at + 1)
            if len(data) - at < 5 + size:
                break
            self.message_received(data[at + 5 : at + 5 + size])
            at += 5 + size
        self._received = data[at:]

    def _end(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)
