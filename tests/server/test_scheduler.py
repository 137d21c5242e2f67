"""The scheduler with steps that tests hold in their hands."""

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from hiddenstate_server.errors import DeadlineError, ModelFailedError, OverloadedError, ShuttingDownError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.scheduler import Scheduler, Work


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Turns(Work):
    """Work that takes several steps and has news after each."""

    left: int = 1
    fails: bool = False


class Queue:
    """Everything that waits is one batch."""

    def __init__(self) -> None:
        self.waiting: list[Turns] = []

    def put(self, work: Turns) -> None:
        self.waiting.append(work)

    def take(self) -> list[Turns]:
        taken, self.waiting = self.waiting, []
        return taken


class Gate:
    """A step that waits until the test opens it."""

    def __init__(self) -> None:
        self.batches: list[list[Turns]] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def __call__(self, batch: Sequence[Turns]) -> Sequence[Turns]:
        self.batches.append(list(batch))
        self.entered.release()
        assert self.open.acquire(timeout=30)
        if any(work.fails for work in batch):
            raise ValueError("secret internals")
        for work in batch:
            work.left -= 1
            work.over = work.left <= 0
        return batch

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest_asyncio.fixture
async def scheduler(gate: Gate) -> AsyncIterator[Scheduler[Turns]]:
    scheduler: Scheduler[Turns] = Scheduler(
        model="m",
        version="1",
        waiting=Queue(),
        step=gate,
        max_waiting_tokens=100,
        loop=asyncio.get_running_loop(),
        metrics=Metrics(),
    )
    yield scheduler
    gate.open.release(1000)
    scheduler.close()


async def test_what_comes_while_a_batch_runs_goes_together_in_the_next(scheduler: Scheduler[Turns], gate: Gate) -> None:
    first = asyncio.create_task(scheduler.run(Turns(size=1)))
    await gate.wait_entered()
    later = [asyncio.create_task(scheduler.run(Turns(size=1))) for _ in range(5)]
    await asyncio.sleep(0)
    gate.open.release(2)
    await asyncio.gather(first, *later)
    assert [len(batch) for batch in gate.batches] == [1, 5]


async def test_work_that_is_not_over_comes_again_beside_new_work(scheduler: Scheduler[Turns], gate: Gate) -> None:
    long = Turns(size=1, left=3)
    running = asyncio.create_task(scheduler.run(long))
    await gate.wait_entered()
    short = Turns(size=1)
    joined = asyncio.create_task(scheduler.run(short))
    await asyncio.sleep(0)
    gate.open.release(3)
    await asyncio.gather(running, joined)
    assert [sorted(batch, key=id) for batch in gate.batches[:2]] == [[long], sorted([long, short], key=id)]
    assert scheduler.waiting_requests == scheduler.waiting_tokens == 0


async def test_more_tokens_than_may_wait_are_refused_at_once_and_nothing_of_them_is_kept(
    scheduler: Scheduler[Turns], gate: Gate
) -> None:
    running = asyncio.create_task(scheduler.run(Turns(size=60)))
    await gate.wait_entered()
    with pytest.raises(OverloadedError, match="holds 60 tokens and takes 100; this request has 41"):
        await scheduler.run_all([Turns(size=40), Turns(size=1)])
    assert (scheduler.waiting_requests, scheduler.waiting_tokens) == (1, 60)
    gate.open.release()
    await running
    assert (scheduler.waiting_requests, scheduler.waiting_tokens) == (0, 0)


async def test_cancelled_and_expired_work_is_never_computed(scheduler: Scheduler[Turns], gate: Gate) -> None:
    running = asyncio.create_task(scheduler.run(Turns(size=1)))
    await gate.wait_entered()
    cancelled = asyncio.create_task(scheduler.run(Turns(size=1)))
    expired = asyncio.create_task(scheduler.run(Turns(size=1, deadline=0.0)))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    gate.open.release()
    with pytest.raises(DeadlineError):
        await expired
    await running
    await scheduler.drain()
    assert cancelled.cancelled()
    assert len(gate.batches) == 1


async def test_a_step_that_raises_fails_its_batch_without_telling_internals_and_the_next_one_runs(
    scheduler: Scheduler[Turns], gate: Gate
) -> None:
    gate.open.release(2)
    with pytest.raises(ModelFailedError) as caught:
        await scheduler.run(Turns(size=1, fails=True))
    assert "secret" not in str(caught.value)
    await scheduler.run(Turns(size=1))
    assert scheduler.waiting_tokens == 0


async def test_followed_work_tells_of_every_step_and_ends(scheduler: Scheduler[Turns], gate: Gate) -> None:
    work = Turns(size=1, left=3)
    seen = []
    gate.open.release()
    async for _ in scheduler.follow(work):
        seen.append(work.left)
        gate.open.release()
    assert seen == [2, 1, 0]
    assert scheduler.waiting_requests == 0


async def test_followed_work_that_fails_raises(scheduler: Scheduler[Turns], gate: Gate) -> None:
    gate.open.release()
    with pytest.raises(ModelFailedError):
        async for _ in scheduler.follow(Turns(size=1, fails=True)):
            pass


async def test_closing_what_follows_abandons_the_work(scheduler: Scheduler[Turns], gate: Gate) -> None:
    work = Turns(size=1, left=1000)
    news = scheduler.follow(work)
    gate.open.release()
    await anext(news)
    await news.aclose()
    gate.open.release()
    await scheduler.drain()
    assert work.left >= 998


async def test_draining_finishes_what_runs_and_refuses_what_comes(scheduler: Scheduler[Turns], gate: Gate) -> None:
    running = asyncio.create_task(scheduler.run(Turns(size=1)))
    await gate.wait_entered()
    drained = asyncio.create_task(scheduler.drain())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDownError):
        await scheduler.run(Turns(size=1))
    assert not drained.done()
    gate.open.release()
    await asyncio.gather(running, drained)


async def test_waiting_and_computing_are_told_apart(scheduler: Scheduler[Turns], gate: Gate) -> None:
    first, second = Turns(size=1), Turns(size=1)
    running = asyncio.create_task(scheduler.run(first))
    await gate.wait_entered()
    waiting = asyncio.create_task(scheduler.run(second))
    await asyncio.sleep(0)
    gate.open.release(2)
    await asyncio.gather(running, waiting)
    assert first.compute_s > 0
    assert second.compute_s > 0
    assert second.queue_s > 0
    assert second.finished_at >= first.finished_at
