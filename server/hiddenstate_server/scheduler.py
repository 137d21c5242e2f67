"""Owns what waits for a model and runs it in batches on threads of its own.

There is no timer: whenever a thread is free it takes what waits, so batches grow under load and an idle server adds
no delay. What waits is kept by a `Queue`, which decides who goes together; a `step` computes a batch and says whose
turn is over and who comes again (iteration-level batching, as in Orca and BatchMaker). With several threads one batch
is computed while the replies of another are written and its callers ask again: no core stands still meanwhile.

The event loop submits, abandons and is told; runner threads take, compute and put back, one of them taking at a time.
The inbox and `Work.abandoned` are all that loop and runners share; work that has been taken is one thread's until it
is put back or over.
"""

import asyncio
import functools
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol

from hiddenstate_server.admission import Admission
from hiddenstate_server.errors import DeadlineError, ModelFailedError, ServingError, ShuttingDownError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.spare_cores import spare_cores
from hiddenstate_server.work import Work

_NICE = 3

_log = logging.getLogger(__name__)


class Queue(Protocol):
    """Decides which waiting work goes together. One runner thread at a time uses it."""

    def put(self, work: Any) -> None:
        """Adds work that is new or comes again."""

    def take(self, sharers: int) -> list[Any]:
        """Removes and returns the next batch, leaving their part to the other `sharers - 1` threads that are free too.

        Empty only if nothing waits.
        """


Step = Callable[[Sequence[Any]], Sequence[Any]]
"""Computes a batch and returns the work that has news; work with `over` unset is put back into the queue."""


class Scheduler:
    """Batches work of one model and runs it on `runners` threads."""

    def __init__(
        self,
        *,
        model: str,
        version: str,
        waiting: Queue,
        step: Step,
        admission: Admission,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        runners: int = 1,
        cores: int = 0,
        trial: Callable[[], object] | None = None,
    ) -> None:
        """With `cores` given, no more runners compute at a time than find a core beside all else.

        `trial` runs the model with what is known to be good, on any thread, and raises what that does.
        """
        self._admission = admission  # this and the next four belong to the event loop
        self._arrivals = 0
        self._outbox: list[Work] = []  # submitted in this turn of the loop
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._dropped = functools.partial(metrics.dropped, model=model, version=version)
        self._queue = waiting
        self._tracing = metrics.tracing
        self._step = step if self._tracing is None else self._tracing.of_step(step, model, version)
        self._loop = loop
        self._inbox: queue.SimpleQueue[Sequence[Work] | None] = queue.SimpleQueue()  # None closes
        self._turn = threading.Lock()  # held by the runner that takes
        self._held = 0  # work in the queue; this and the next belong to the runner whose turn it is
        self._active = runners  # threads that are not parked
        self._parked = threading.Semaphore(0)  # where those wait that would find no core
        # What each thread computes and since when, for those who watch; each entry is one thread's.
        self._running: list[tuple[float, Sequence[Work]] | None] = [None] * runners
        self.failures = 0  # batches that failed since one did not; threads may lose each other's count
        self.trial = trial
        self.name = f"{model} version {version}"
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"run-{number}-{model}-{version}", daemon=True)
            for number in range(runners)
        ]
        with self._turn:  # none begins before it is known how many may
            for thread in self._threads:
                thread.start()
            self._spare = spare_cores(cores, self._threads) if cores and runners > 1 else None

    @property
    def waiting_requests(self) -> int:
        """Work that is submitted and not over."""
        return self._admission.waiting_works

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the work that is submitted and not over."""
        return self._admission.waiting_tokens

    def submit(self, works: Sequence[Work]) -> None:
        """Hands in work, all of it or none.

        Raises:
            DeadlineError: its deadline has passed.
            OverloadedError: more tokens wait than may, or so many that the work's deadline would pass.
            ShuttingDownError: the server is draining.
        """
        if self._draining:
            raise ShuttingDownError("the server is shutting down; send the request to another replica")
        now = time.monotonic()
        try:
            self._admission.admit(works, now)
        except ServingError:
            for work in works:
                work.tell_nobody()  # as at the end: else it holds who is told, and is held by it
            raise
        if self._tracing:
            self._tracing.begin(works)
        self._idle.clear()
        for work in works:
            self._arrivals += 1
            work.arrival, work.submitted_at = self._arrivals, now
        if not self._outbox:  # what is submitted in one turn of the loop may share a batch
            self._loop.call_soon(self._hand_over)
        self._outbox += works

    def check(self, deadline: float, is_bulk: bool, size: int = 1) -> None:
        """Refuses at once what `submit` would refuse if it had `size` tokens, before it is made ready for that.

        Raises:
            DeadlineError: the deadline has passed.
            OverloadedError: the deadline would pass while it waits.
        """
        self._admission.check(deadline, time.monotonic(), is_bulk, size)

    def refusal(self, deadline: float, is_bulk: bool, size: int = 1) -> ServingError | None:
        """Returns what `check` would raise, as a value that others have too and that is not to be raised."""
        return self._admission.refusal(deadline, time.monotonic(), is_bulk, size)

    async def run(self, work: Work) -> None:
        """Submits work and returns when it is over.

        Raises:
            ServingError: it was refused, expired or failed.
        """
        await self.run_all([work])

    async def run_all(self, works: Sequence[Work]) -> None:
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

    async def follow(self, work: Work) -> AsyncGenerator[None, None]:
        """Submits work and yields whenever there is news, the last time when it is over; closing abandons it.

        Raises:
            ServingError: it was refused, expired or failed.
        """
        news = asyncio.Event()
        ended = False

        def told(over: bool) -> None:
            nonlocal ended
            ended = ended or over
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

    def running_s(self, now: float) -> float:
        """Returns for how long the slowest batch has been computed at `now`, of time.monotonic(), in seconds."""
        return max((now - running[0] for running in self._running if running is not None), default=0.0)

    def give_up(self, error: ServingError) -> None:
        """Answers what is computed now with an error. The threads go on: the process has to end afterwards."""
        works = [work for running in self._running if running is not None for work in running[1] if not work.over]
        for work in works:
            work.drop(error)
        self._tell([(work, True) for work in works])

    def close(self) -> None:
        """Ends the runner threads after the running batches. Work that still waits is never told."""
        self._inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _hand_over(self) -> None:
        works, self._outbox = self._outbox, []
        self._inbox.put(works)

    def _tell(self, news: Sequence[tuple[Work, bool]]) -> None:
        """Runs on the event loop: frees the places of finished work and passes news (work, over) on."""
        self._admission.release([work for work, over in news if over], time.monotonic())
        for work, over in news:
            told = work.told
            if over:
                work.tell_nobody()  # else works and those who are told hold each other, and stay
            try:
                told(over)
            except Exception:  # whoever else was in the batch shall hear of it
                _log.exception("an answer could not be handed on")
        if not self._admission.waiting_works:
            self._idle.set()

    def _run(self, number: int) -> None:
        _give_way()
        while (batch := self._take()) is not None:
            live = self._wanted(batch)
            news = [work for work in batch if work.over] if len(live) < len(batch) else []
            if live:
                self._running[number] = time.monotonic(), live
                news += self._compute(live)
                self._running[number] = None
            again = [work for work in live if not work.over]
            if news:
                # The next step may end work before the event loop hears of this one, so `over` goes as it is now. And
                # it goes before the work does: another thread may end that at once.
                self._loop.call_soon_threadsafe(self._tell, [(work, work.over) for work in news])
            if again:
                self._inbox.put(again)
            del batch, live, news, again  # an idle thread shall hold no answers, nor the model that they came from

    def _take(self) -> list[Work] | None:
        """Returns the next batch, waiting while there is nothing to do or no core to do it on; None once closed."""
        while True:
            with self._turn:
                if not self._receive():
                    self._parked.release(len(self._threads))
                    return None
                runners = self._runners()
                if self._active <= runners:
                    batch: list[Work] = self._queue.take(runners)
                    self._held -= len(batch)
                    return batch
                self._active -= 1
            self._parked.acquire()

    def _runners(self) -> int:
        """Returns how many threads may compute at a time, and wakes parked ones of which there are too few."""
        if self._spare is None:
            return len(self._threads)
        runners = self._spare.runners()
        while self._active < runners:
            self._active += 1
            self._parked.release()
        return runners

    def _receive(self) -> bool:
        """Moves the inbox to the queue, waiting while that is empty. False once closed."""
        try:
            while True:
                works = self._inbox.get(block=not self._held)
                if works is None:
                    self._inbox.put(None)  # for the other threads
                    return False
                for work in works:
                    self._queue.put(work)
                self._held += len(works)
        except queue.Empty:
            return True

    def _wanted(self, batch: Sequence[Work]) -> Sequence[Work]:
        """Ends work that nobody waits for before it costs anything, and returns the rest."""
        now = time.monotonic()
        unwanted = 0
        for work in batch:
            unwanted += work.abandoned or now >= work.deadline
        if not unwanted:
            return batch
        for work in batch:
            if work.abandoned:
                self._dropped(reason="cancelled")
                work.drop(None)
            elif now >= work.deadline:
                self._dropped(reason="deadline")
                work.drop(DeadlineError("the deadline passed while the request waited for the model"))
        return [work for work in batch if not work.over]

    def _compute(self, batch: Sequence[Work]) -> Sequence[Work]:
        started_at = time.monotonic()
        try:
            news = self._step(batch)
        except Exception:  # one bad batch must not end the thread that serves all others
            self.failures += 1
            _log.exception("a batch of %d failed", len(batch))
            self._dropped(reason="failed", count=len(batch))
            for work in batch:
                work.drop(ModelFailedError("the model could not be run; the server's log has the reason"))
            return batch
        self.failures = 0
        finished_at = time.monotonic()
        batch_s = finished_at - started_at
        for work in batch:
            work.compute_s += batch_s
            work.batch_s = batch_s
            work.finished_at = finished_at
        return news


def _give_way() -> None:
    """Lets the event loop go before this thread where cores are few: requests that come late leave models idle."""
    if sys.platform == "linux":  # elsewhere it would concern all threads
        os.nice(_NICE)
