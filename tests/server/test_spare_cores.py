"""How many runner threads find a core: by processor times that the test decides."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from hiddenstate_server import spare_cores as module
from hiddenstate_server.spare_cores import SpareCores, spare_cores


class Clocks:
    """Stands for `time`: moves on when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.process = 0.0
        self.threads: dict[int, float] = {}

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.process

    def pthread_getcpuclockid(self, thread: int) -> int:
        self.threads.setdefault(thread, 0.0)
        return thread

    def clock_gettime(self, clock: int) -> float:
        return self.threads[clock]

    def spend(self, seconds: float, *, runners: float, others: float) -> None:
        """Lets time pass in which the runner threads together use so many cores, and all else so many."""
        self.now += seconds
        for thread in self.threads:
            self.threads[thread] += seconds * runners / len(self.threads)
        self.process += seconds * (runners + others)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(module, "time", clocks)
    return clocks


@pytest.fixture
def sleepers() -> Iterator[list[threading.Thread]]:
    """Threads that do nothing until the test ends."""
    ended = threading.Event()
    threads = [threading.Thread(target=ended.wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield threads
    ended.set()
    for thread in threads:
        thread.join()


def settled(spare: SpareCores, clocks: Clocks, *, runners: float, others: float) -> int:
    for _ in range(20):
        clocks.spend(0.2, runners=runners, others=others)
        spare.runners()
    return spare.runners()


@pytest.mark.parametrize(
    ("cores", "count", "others", "expected"),
    [
        (2, 2, 0.3, 2),
        (2, 2, 0.7, 1),
        (2, 2, 3.0, 1),
        (4, 4, 0.4, 4),
        (4, 4, 1.2, 3),
        (8, 2, 1.0, 2),
        (2, 4, 0.3, 4),  # as many as --runners says
        (2, 4, 1.0, 3),
    ],
)
def test_what_all_else_uses_is_left_to_it_and_one_runner_is_left_always(
    clocks: Clocks, sleepers: list[threading.Thread], cores: int, count: int, others: float, expected: int
) -> None:
    spare = SpareCores(cores, sleepers[:count])
    assert spare.runners() == count  # nothing is known yet
    assert settled(spare, clocks, runners=0.9, others=others) == expected


def test_when_all_else_is_idle_again_all_runners_may(clocks: Clocks, sleepers: list[threading.Thread]) -> None:
    spare = SpareCores(2, sleepers[:2])
    assert settled(spare, clocks, runners=1.0, others=0.9) == 1
    assert settled(spare, clocks, runners=1.0, others=0.1) == 2


def test_what_the_runners_use_themselves_keeps_none_from_running(
    clocks: Clocks, sleepers: list[threading.Thread]
) -> None:
    spare = SpareCores(2, sleepers[:2])
    assert settled(spare, clocks, runners=2.0, others=0.0) == 2


def test_where_threads_have_no_clocks_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace())
    assert spare_cores(2, []) is None
