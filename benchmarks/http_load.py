"""POST requests over HTTP/1.1 connections that are kept: what a caller of an HTTP server at its leanest does."""

import asyncio
import re
import time
from collections.abc import Iterator
from typing import cast

from benchmarks.samples import Samples

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class HttpLoad(asyncio.Protocol):
    """One connection, one request at a time, again and again until `stop`."""

    def __init__(self, path: str, payloads: Iterator[bytes], samples: Samples) -> None:
        self._path = path
        self._payloads = payloads
        self._samples = samples
        self._begun = 0.0
        self._buffer = b""
        self._again = True
        self._transport: asyncio.Transport

    def stop(self) -> None:
        """Sends no more requests."""
        self._again = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        found = _LENGTH.search(head + b"\r\n")
        if not separator or not found or len(body) < int(found[1]):
            return
        if b" 200 " not in head[:20]:
            raise ConnectionError(f"not answered: {head[:100]!r}")
        self._samples.add(time.perf_counter() - self._begun)
        self._buffer = b""
        if self._again:
            self._send()

    def _send(self) -> None:
        payload = next(self._payloads)
        self._begun = time.perf_counter()
        head = f"POST {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(payload)}\r\n\r\n"
        self._transport.write(head.encode() + payload)
