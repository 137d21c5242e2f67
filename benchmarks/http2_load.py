"""Unary gRPC calls at a small part of what a gRPC client costs, so that the load generator is not what is measured.

A call is one HEADERS frame, always the same but for the stream's number, and one DATA frame. One that ends without DATA
was refused.
"""

import asyncio
import collections
import time
from collections.abc import Iterator, Sequence

from benchmarks import http2
from benchmarks.samples import Samples


class Http2Load(http2.Http2Connection):
    """One connection. Calls go to one method, with the payloads in turn; without payloads no more are begun."""

    def __init__(self, method: str, payloads: Iterator[bytes], timeout_s: float | None = None) -> None:
        super().__init__()
        self.samples = Samples()
        self.refused = Samples()
        self.used_up = asyncio.get_running_loop().create_future()
        self._headers = http2.request_headers(method, timeout_s)
        self._bodies = map(http2.grpc_message, payloads)
        self._next_stream = 1
        self._begun: dict[int, float] = {}
        self._held: collections.deque[tuple[float, bytes]] = collections.deque()  # what it did not take: due, body
        self._answered: set[int] = set()
        self._again = False

    def keep(self, callers: int) -> None:
        """Begins calls; each that ends is followed by another."""
        self._again = True
        self.begin([time.perf_counter()] * callers)

    def begin(self, dues: Sequence[float]) -> None:
        """Begins calls that were due; their durations count from then."""
        self.write(b"".join([self._next_call(due) for due in dues]))

    @property
    def running(self) -> int:
        """Calls without an answer."""
        return len(self._begun) + len(self._held)

    def frame_received(self, kind: int, flags: int, stream: int, body: bytes) -> bytes:
        """Takes a frame and returns the next call where one has ended."""
        if kind == http2.DATA:
            self._answered.add(stream)
        return self._end(stream) if kind == http2.RESET or flags & http2.END_STREAM else b""

    def widened(self, stream: int, more: int) -> None:
        """Begins calls that were held."""
        if not stream:
            held, self._held = self._held, collections.deque()
            self.write(b"".join([self._call(due, body) for due, body in held]))

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
        if len(body) > self.window:
            self._held.append((due, body))
            return b""
        self.window -= len(body)
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._begun[stream] = due
        return http2.frame(http2.HEADERS, http2.END_HEADERS, stream, self._headers) + http2.frame(
            http2.DATA, http2.END_STREAM, stream, body
        )
