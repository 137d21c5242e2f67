"""The scheduler with steps that tests hold in their hands."""

import asyncio
import dataclasses
import math
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hiddenstate_server.admission import Admission
from hiddenstate_server.errors import DeadlineError, ModelFailedError, OverloadedError, ShuttingDownError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.scheduler import Scheduler
from hiddenstate_server.work import Work


class Turns(Work):
    """Work that takes several steps and has news after each."""

    def __init__(
        self, size: int, deadline: float = math.inf, is_bulk: bool = False, *, left: int = 1, fails: bool = False
    ) -> None:
        super().__init__(size, deadline, is_bulk)
        self.left = left
        self.fails = fails


class Queue:
    """Everything that waits is one batch."""

    def __init__(self) -> None:
        self.waiting: list[Turns] = []
        self.sharers: list[int] = []

    def put(self, work: Turns) -> None:
        self.waiting.append(work)

    def take(self, sharers: int) -> list[Turns]:
        self.sharers.append(sharers)
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


def make_scheduler(
    step: Any, *, runners: int = 1, waiting: Any = None, admission: Admission | None = None
) -> Scheduler:
    return Scheduler(
        model="m",
        version="1",
        waiting=waiting or Queue(),
        step=step,
        admission=admission or Admission(max_waiting_tokens=100, full_batch=4),
        loop=asyncio.get_running_loop(),
        metrics=Metrics(),
        runners=runners,
    )


@pytest_asyncio.fixture
async def scheduler(gate: Gate) -> AsyncIterator[Scheduler]:
    """One runner thread."""
    scheduler = make_scheduler(gate)
    yield scheduler
    gate.open.release(1000)
    scheduler.close()


@pytest_asyncio.fixture(params=[1, 2, 3])
async def any_scheduler(gate: Gate, request: pytest.FixtureRequest) -> AsyncIterator[Scheduler]:
    """One, two or three runner threads."""
    scheduler = make_scheduler(gate, runners=request.param)
    yield scheduler
    gate.open.release(1000)
    scheduler.close()


async def handed_over() -> None:
    """Returns when the loop has handed over what tasks that have begun submit: they run, then the callback does."""
    for _ in range(2):
        await asyncio.sleep(0)


async def test_what_comes_while_a_batch_runs_goes_together_in_the_next(scheduler: Scheduler, gate: Gate) -> None:
    first = asyncio.create_task(scheduler.run(Turns(size=1)))
    await gate.wait_entered()
    later = [asyncio.create_task(scheduler.run(Turns(size=1))) for _ in range(5)]
    await handed_over()
    gate.open.release(2)
    await asyncio.gather(first, *later)
    assert [len(batch) for batch in gate.batches] == [1, 5]


async def test_work_that_is_not_over_comes_again_beside_new_work(scheduler: Scheduler, gate: Gate) -> None:
    long = Turns(size=1, left=3)
    running = asyncio.create_task(scheduler.run(long))
    await gate.wait_entered()
    short = Turns(size=1)
    joined = asyncio.create_task(scheduler.run(short))
    await handed_over()
    gate.open.release(3)
    await asyncio.gather(running, joined)
    assert [sorted(batch, key=id) for batch in gate.batches[:2]] == [[long], sorted([long, short], key=id)]
    assert scheduler.waiting_requests == scheduler.waiting_tokens == 0


async def test_more_tokens_than_may_wait_are_refused_at_once_and_nothing_of_them_is_kept(
    any_scheduler: Scheduler, gate: Gate
) -> None:
    running = asyncio.create_task(any_scheduler.run(Turns(size=60)))
    await gate.wait_entered()
    with pytest.raises(OverloadedError, match="holds 60 tokens and takes 100; this request has 41"):
        await any_scheduler.run_all([Turns(size=40), Turns(size=1)])
    assert (any_scheduler.waiting_requests, any_scheduler.waiting_tokens) == (1, 60)
    gate.open.release()
    await running
    assert (any_scheduler.waiting_requests, any_scheduler.waiting_tokens) == (0, 0)


async def test_refused_work_is_gone_at_once(scheduler: Scheduler, gate: Gate) -> None:
    class Owner:
        def __init__(self) -> None:
            self.work = Turns(size=101)
            self.work.told = self.hear

        def hear(self, over: bool) -> None:
            raise AssertionError

    owner = Owner()
    gone = weakref.ref(owner)
    with pytest.raises(OverloadedError):
        scheduler.submit([owner.work])
    del owner
    assert gone() is None  # without a collector of cycles


async def test_cancelled_and_expired_work_is_never_computed(scheduler: Scheduler, gate: Gate) -> None:
    running = asyncio.create_task(scheduler.run(Turns(size=1)))
    await gate.wait_entered()
    cancelled = asyncio.create_task(scheduler.run(Turns(size=1)))
    late = Turns(size=1, deadline=time.monotonic() + 60)
    expired = asyncio.create_task(scheduler.run(late))
    await handed_over()
    late.deadline = 0.0
    cancelled.cancel()
    await asyncio.wait([cancelled])
    gate.open.release()
    with pytest.raises(DeadlineError):
        await expired
    await running
    await scheduler.drain()
    assert cancelled.cancelled()
    assert len(gate.batches) == 1


class Seeing(Admission):
    """Remembers what it has let go of."""

    def __init__(self) -> None:
        super().__init__(max_waiting_tokens=100, full_batch=4)
        self.seen: list[tuple[int, bool]] = []

    def release(self, works: Sequence[Any], now: float) -> None:
        self.seen.extend((work.size, work.dropped) for work in works)
        super().release(works, now)


async def test_only_what_was_computed_counts_as_done(gate: Gate) -> None:
    admission = Seeing()
    scheduler = make_scheduler(gate, admission=admission)
    works = [Turns(size=number) for number in (1, 2, 3, 4)]
    running = asyncio.create_task(scheduler.run_all(works))
    await asyncio.sleep(0)  # they are submitted, and not handed over yet
    works[1].deadline, works[2].abandoned = 0.0, True
    gate.open.release()
    with pytest.raises(DeadlineError):
        await running
    gate.open.release()
    with pytest.raises(ModelFailedError):
        await scheduler.run(Turns(size=5, fails=True))
    assert sorted(admission.seen) == [(1, False), (2, True), (3, True), (4, False), (5, True)]
    scheduler.close()


async def test_a_step_that_raises_fails_its_batch_without_telling_internals_and_the_next_one_runs(
    any_scheduler: Scheduler, gate: Gate
) -> None:
    gate.open.release(2)
    with pytest.raises(ModelFailedError) as caught:
        await any_scheduler.run(Turns(size=1, fails=True))
    assert "secret" not in str(caught.value)
    await any_scheduler.run(Turns(size=1))
    assert any_scheduler.waiting_tokens == 0


async def test_followed_work_tells_of_every_step_and_ends(any_scheduler: Scheduler, gate: Gate) -> None:
    work = Turns(size=1, left=3)
    seen = []
    gate.open.release()
    async for _ in any_scheduler.follow(work):
        seen.append(work.left)
        gate.open.release()
    assert seen == [2, 1, 0]
    assert any_scheduler.waiting_requests == 0


async def test_followed_work_that_fails_raises(any_scheduler: Scheduler, gate: Gate) -> None:
    gate.open.release()
    with pytest.raises(ModelFailedError):
        async for _ in any_scheduler.follow(Turns(size=1, fails=True)):
            pass


async def test_closing_what_follows_abandons_the_work(any_scheduler: Scheduler, gate: Gate) -> None:
    work = Turns(size=1, left=1000)
    news = any_scheduler.follow(work)
    gate.open.release()
    await anext(news)
    await news.aclose()
    gate.open.release()
    await any_scheduler.drain()
    assert work.left >= 998


async def test_draining_finishes_what_runs_and_refuses_what_comes(any_scheduler: Scheduler, gate: Gate) -> None:
    running = asyncio.create_task(any_scheduler.run(Turns(size=1)))
    await gate.wait_entered()
    drained = asyncio.create_task(any_scheduler.drain())
    await handed_over()
    with pytest.raises(ShuttingDownError):
        await any_scheduler.run(Turns(size=1))
    assert not drained.done()
    gate.open.release()
    await asyncio.gather(running, drained)


async def test_waiting_and_computing_are_told_apart(scheduler: Scheduler, gate: Gate) -> None:
    first, second = Turns(size=1), Turns(size=1)
    running = asyncio.create_task(scheduler.run(first))
    await gate.wait_entered()
    waiting = asyncio.create_task(scheduler.run(second))
    await handed_over()
    gate.open.release(2)
    await asyncio.gather(running, waiting)
    assert first.compute_s > 0
    assert second.compute_s > 0
    assert second.queue_s() > 0
    assert second.finished_at >= first.finished_at


class Cores:
    """Finds as many cores for the runners as the test says."""

    def __init__(self, runners: int) -> None:
        self.free = runners

    def runners(self) -> int:
        return self.free


async def test_a_runner_that_finds_no_core_waits_until_there_is_one(gate: Gate) -> None:
    scheduler, cores = make_scheduler(gate, runners=2), Cores(1)
    scheduler._spare = cores  # type: ignore[assignment]
    tasks = [asyncio.create_task(scheduler.run(Turns(size=1)))]
    await gate.wait_entered()  # the one that may
    tasks += [asyncio.create_task(scheduler.run(Turns(size=1))) for _ in range(3)]
    for _ in range(2):  # they are submitted, and handed over
        await asyncio.sleep(0)
    gate.open.release()
    await gate.wait_entered()
    assert [len(batch) for batch in gate.batches] == [1, 3]
    cores.free = 2
    gate.open.release()
    await asyncio.gather(*tasks)
    tasks = [asyncio.create_task(scheduler.run(Turns(size=1)))]
    await gate.wait_entered()
    tasks.append(asyncio.create_task(scheduler.run(Turns(size=1))))
    await gate.wait_entered()  # beside the first
    gate.open.release(2)
    await asyncio.gather(*tasks)
    cores.free = 1
    scheduler.close()


@pytest.mark.parametrize("runners", [2, 3])
async def test_each_runner_thread_computes_a_batch_and_is_told_who_shares(gate: Gate, runners: int) -> None:
    queue = Queue()
    scheduler = make_scheduler(gate, runners=runners, waiting=queue)
    running = []
    for _ in range(runners):
        running.append(asyncio.create_task(scheduler.run(Turns(size=1))))
        await gate.wait_entered()
    waiting = asyncio.create_task(scheduler.run(Turns(size=1)))
    await handed_over()
    assert queue.sharers == [runners] * runners
    assert len(gate.batches) == runners
    gate.open.release(runners + 1)
    await asyncio.gather(*running, waiting)
    scheduler.close()


async def test_a_batch_that_stands_still_does_not_hold_up_the_other_runner_thread() -> None:
    stands, goes_on = threading.Event(), threading.Event()

    def step(batch: Sequence[Turns]) -> Sequence[Turns]:
        if any(work.fails for work in batch):
            stands.set()
            assert goes_on.wait(30)
        for work in batch:
            work.over = True
        return batch

    scheduler = make_scheduler(step, runners=2)
    slow = asyncio.create_task(scheduler.run(Turns(size=1, fails=True)))
    assert await asyncio.to_thread(stands.wait, 30)
    for _ in range(20):
        await scheduler.run(Turns(size=1))
    assert not slow.done()
    goes_on.set()
    await slow
    scheduler.close()


async def test_runner_threads_end_when_they_are_closed_while_work_waits(gate: Gate) -> None:
    scheduler = make_scheduler(gate, runners=3)
    asking = [asyncio.create_task(scheduler.run(Turns(size=1, left=5)))]
    await gate.wait_entered()
    gate.open.release(1000)
    await asyncio.to_thread(scheduler.close)
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("-m-1")]
    for task in asking:
        task.cancel()


class Stepper:
    """A step that sees whether work is in two batches at a time."""

    def __init__(self) -> None:
        self.doubled = 0
        self._lock = threading.Lock()
        self._running: set[int] = set()

    def __call__(self, batch: Sequence[Turns]) -> Sequence[Turns]:
        ids = {id(work) for work in batch}
        with self._lock:
            self.doubled += len(ids & self._running) + len(batch) - len(ids)
            self._running |= ids
        try:
            if any(work.fails for work in batch):
                raise ValueError("one of them fails")
            for work in batch:
                work.left -= 1
                work.over = work.left <= 0
            return [work for work in batch if work.over or work.left % 2]
        finally:
            with self._lock:
                self._running -= ids


class Pairs(Queue):
    """Two go together at most."""

    def take(self, sharers: int) -> list[Turns]:
        taken, self.waiting = self.waiting[:2], self.waiting[2:]
        return taken


@dataclasses.dataclass(frozen=True)
class Plan:
    """A work, and what becomes of it."""

    size: int
    turns: int
    is_bulk: bool
    fate: str  # answered, expired, abandoned or fails
    pause: bool  # whether the loop goes on before the next


PLANS = st.builds(
    Plan,
    size=st.integers(1, 30),
    turns=st.integers(1, 5),
    is_bulk=st.booleans(),
    fate=st.sampled_from(["answered"] * 4 + ["expired", "abandoned", "fails"]),
    pause=st.booleans(),
)


@pytest.mark.parametrize("runners", [1, 2, 3])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans=st.lists(PLANS, max_size=40))
def test_whatever_comes_the_end_of_each_work_is_told_once_and_nothing_is_left(runners: int, plans: list[Plan]) -> None:
    asyncio.run(meet_their_fates(runners, plans))


async def meet_their_fates(runners: int, plans: list[Plan]) -> None:
    step, queue = Stepper(), Pairs()
    scheduler = make_scheduler(step, runners=runners, waiting=queue)
    taken: list[tuple[Plan, Turns, list[bool]]] = []
    for plan in plans:
        told: list[bool] = []
        work = Turns(size=plan.size, left=plan.turns, is_bulk=plan.is_bulk, fails=plan.fate == "fails")
        work.told = told.append
        try:
            scheduler.submit([work])
        except OverloadedError:
            assert scheduler.waiting_tokens + plan.size > 100
            continue
        taken.append((plan, work, told))
        work.deadline = 0.0 if plan.fate == "expired" else float("inf")
        if plan.pause:
            await asyncio.sleep(0)
        work.abandoned = plan.fate == "abandoned"
    async with asyncio.timeout(30):
        await scheduler.drain()
    scheduler.close()
    for plan, work, told in taken:
        assert told.count(True) == 1
        assert told[-1]
        assert len(told) <= plan.turns
        assert_fate(plan, work)
    assert step.doubled == 0
    assert queue.waiting == []
    admission = scheduler._admission
    assert (scheduler.waiting_requests, scheduler.waiting_tokens, admission._waiting_interactive) == (0, 0, 0)


def assert_fate(plan: Plan, work: Turns) -> None:
    assert work.over
    if plan.fate == "expired":
        assert isinstance(work.error, DeadlineError)
        assert work.left == plan.turns
    elif plan.fate == "fails":
        assert isinstance(work.error, ModelFailedError)
    elif work.error is None and plan.fate == "answered":
        assert work.left == 0
    else:
        assert plan.fate == "abandoned" or isinstance(work.error, ModelFailedError)  # a neighbour failed
