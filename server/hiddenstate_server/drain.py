"""Which calls run, and how they come to an end when the server shuts down.

grpc.aio's `Server.stop` does not wait well for calls that stream (grpc issue 37239), so the server counts for itself.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hiddenstate_server.errors import ShuttingDownError


class RunningCalls:
    """Counts the calls that run and, once draining, refuses new ones. Belongs to the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._stop_reading: set[Callable[[], None]] = set()

    def __enter__(self) -> None:
        if self.draining:
            raise ShuttingDownError("the server is shutting down; send the call to another replica")
        self.count += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if not self.count:
            self._idle.set()

    @contextmanager
    def until_draining(self, stop_reading: Callable[[], None]) -> Iterator[None]:
        """Calls `stop_reading` if the drain begins within the block: a stream must not wait for its caller then."""
        self._stop_reading.add(stop_reading)
        try:
            yield
        finally:
            self._stop_reading.discard(stop_reading)

    def refuse(self) -> None:
        """Refuses new calls from now on."""
        self.draining = True

    async def drain(self, timeout_s: float) -> bool:
        """Refuses new calls, lets the running ones finish and tells whether all did in time."""
        self.refuse()
        for stop_reading in tuple(self._stop_reading):
            stop_reading()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
