"""Owns what waits for a model and runs it in batches on a thread of its own.

There is no timer: whenever the thread is free it takes what waits, so batches grow under load and an idle server adds
no delay. What waits is kept by a `Queue`, which decides who goes together; a `step` computes a batch and says whose
turn is over and who comes again (iteration-level batching, as in Orca and BatchMaker).

Two threads meet here. The event loop submits, abandons and is told; the runner thread takes, computes and puts back.
The inbox and `Work.abandoned` are all they share.
"""

import asyncio
import dataclasses
import functools
import logging
import math
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from hiddenstate_server.errors import (
    DeadlineError,
    ModelFailedError,
    OverloadedError,
    ServingError,
    ShuttingDownError,
)
from hiddenstate_server.metrics import Metrics

_log = logging.getLogger(__name__)


def _ignore(over: bool) -> None:
    pass


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """Something to compute. It carries its own answer; `told` is how its owner hears of it."""

    size: int  # tokens, for admission
    told: Callable[[bool], None] = _ignore  # called on the event loop when there is news; True at the end, once
    deadline: float = math.inf  # of time.monotonic()
    abandoned: bool = False  # set by the event loop when nobody waits for it any more
    over: bool = False  # set by the runner thread
    error: ServingError | None = None
    arrival: int = 0
    submitted_at: float = 0.0
    finished_at: float = 0.0
    compute_s: float = 0.0  # time of the batches it was part of

    @property
    def queue_s(self) -> float:
        """Time it has waited for the model, in seconds, once it is over."""
        return max(0.0, self.finished_at - self.submitted_at - self.compute_s)


W = TypeVar("W", bound=Work)


class Queue(Protocol[W]):
    """Decides which waiting work goes together. Belongs to the runner thread."""

    def put(self, work: W) -> None:
        """Adds work that is new or comes again."""

    def take(self) -> list[W]:
        """Removes and returns the next batch; empty only if nothing waits."""


Step = Callable[[Sequence[W]], Sequence[W]]
"""Computes a batch and returns the work that has news; work with `over` unset is put back into the queue."""


class Scheduler(Generic[W]):
    """Batches work of one model and runs it on one thread."""

    def __init__(
        self,
        *,
        model: str,
        version: str,
        waiting: Queue[W],
        step: Step[W],
        max_waiting_tokens: int,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
    ) -> None:
        self.waiting_requests = 0  # these three belong to the event loop
        self.waiting_tokens = 0
        self._arrivals = 0
        self._dropped = functools.partial(metrics.dropped, model=model, version=version)
        self._queue = waiting
        self._step = step
        self._max_waiting_tokens = max_waiting_tokens
        self._loop = loop
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._inbox: queue.SimpleQueue[W | None] = queue.SimpleQueue()  # None closes
        self._held = 0  # work in the queue; belongs to the runner thread
        self._thread = threading.Thread(target=self._run, name=f"runner-{model}-{version}", daemon=True)
        self._thread.start()

    def submit(self, works: Sequence[W]) -> None:
        """Hands in work, all of it or none.

        Raises:
            OverloadedError: more tokens wait than may.
            ShuttingDownError: the server is draining.
        """
        if self._draining:
            raise ShuttingDownError("the server is shutting down; send the request to another replica")
        size = sum(work.size for work in works)
        if self.waiting_tokens + size > self._max_waiting_tokens:
            self._dropped(reason="overloaded", count=len(works))
            raise OverloadedError(
                f"the queue holds {self.waiting_tokens:,} tokens and takes {self._max_waiting_tokens:,}; "
                f"this request has {size:,}: send it again later, or in smaller parts"
            )
        self._admit(works, size)

    async def run(self, work: W) -> None:
        """Submits work and returns when it is over.

        Raises:
            ServingError: it was refused, expired or failed.
        """
        await self.run_all([work])

    async def run_all(self, works: Sequence[W]) -> None:
        """Submits work, all of it or none, and returns when all is over.

        Raises:
            ServingError: it was refused, or some of it expired or failed.
        """
        future = self._loop.create_future()
        left = len(works)

        def told(over: bool) -> None:
            nonlocal left
            left -= over
            if not left and not future.done():
                future.set_result(None)

        for work in works:
            work.told = told
        self.submit(works)
        try:
            await future
        finally:
            for work in works:
                work.abandoned = True
        for work in works:
            if work.error:
                raise work.error

    async def follow(self, work: W) -> AsyncGenerator[None, None]:
        """Submits work and yields whenever there is news, the last time when it is over; closing abandons it.

        Raises:
            ServingError: it was refused, expired or failed.
        """
        news = asyncio.Event()
        ended = False

        def told(over: bool) -> None:
            nonlocal ended
            ended = over
            news.set()

        work.told = told
        self.submit([work])
        try:
            while not ended:
                await news.wait()
                news.clear()
                if work.error:
                    raise work.error
                yield
        finally:
            work.abandoned = True

    async def drain(self) -> None:
        """Refuses new work and returns when all that was submitted is over."""
        self._draining = True
        await self._idle.wait()

    def close(self) -> None:
        """Ends the runner thread after the running batch. Work that still waits is never told."""
        self._inbox.put(None)
        self._thread.join()

    def _admit(self, works: Sequence[W], size: int) -> None:
        self.waiting_requests += len(works)
        self.waiting_tokens += size
        self._idle.clear()
        now = time.monotonic()
        for work in works:
            self._arrivals += 1
            work.arrival, work.submitted_at = self._arrivals, now
            self._inbox.put(work)

    def _tell(self, news: Sequence[tuple[W, bool]]) -> None:
        """Runs on the event loop: passes news (work, over) on and frees the places of finished work."""
        for work, over in news:
            if over:
                self.waiting_requests -= 1
                self.waiting_tokens -= work.size
            work.told(over)
        if not self.waiting_requests:
            self._idle.set()

    def _run(self) -> None:
        while self._receive():
            batch = self._queue.take()
            self._held -= len(batch)
            live = [work for work in batch if self._is_wanted(work)]
            news = [work for work in batch if work.over]
            if live:
                news += self._compute(live)
            if news:
                # The next step may end work before the event loop hears of this one, so `over` goes as it is now.
                self._loop.call_soon_threadsafe(self._tell, [(work, work.over) for work in news])

    def _receive(self) -> bool:
        """Moves the inbox to the queue, waiting while there is nothing to do at all. False once closed."""
        try:
            while True:
                work = self._inbox.get(block=not self._held)
                if work is None:
                    return False
                self._put(work)
        except queue.Empty:
            return True

    def _put(self, work: W) -> None:
        self._queue.put(work)
        self._held += 1

    def _is_wanted(self, work: W) -> bool:
        """Ends work that nobody waits for before it costs anything."""
        if work.abandoned:
            self._dropped(reason="cancelled")
            self._end(work, None)
        elif time.monotonic() >= work.deadline:
            self._dropped(reason="deadline")
            self._end(work, DeadlineError("the deadline passed while the request waited for the model"))
        return not work.over

    def _compute(self, batch: Sequence[W]) -> Sequence[W]:
        started_at = time.monotonic()
        try:
            news = self._step(batch)
        except Exception:  # one bad batch must not end the thread that serves all others
            _log.exception("a batch of %d failed", len(batch))
            self._dropped(reason="failed", count=len(batch))
            for work in batch:
                self._end(work, ModelFailedError("the model could not be run; the server's log has the reason"))
            return batch
        seconds = time.monotonic() - started_at
        for work in batch:
            work.compute_s += seconds
            if work.over:
                work.finished_at = started_at + seconds
            else:
                self._put(work)
        return news

    def _end(self, work: W, error: ServingError | None) -> None:
        work.error = error
        work.over = True
        work.finished_at = time.monotonic()
