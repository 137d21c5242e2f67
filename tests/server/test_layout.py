"""How many batches of a model run at a time: by the cores, and by runners whose speed the test decides."""

import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from hiddenstate_server import layout
from hiddenstate_server.layout import Layout, default_layout, measured_layout, shared_cores
from hiddenstate_server.providers import CPU, Provider

HERE = Provider(name=CPU, reason="as asked")
GPU = Provider(name="CUDAExecutionProvider", reason="it is installed and works")


class Work:
    """A clock that moves on by what trials cost: so much for each, whatever else runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.loaded: list[int] = []  # threads of each runner
        self._lock = threading.Lock()

    def perf_counter(self) -> float:
        with self._lock:
            return self.now

    def spend(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


class FakeRunner:
    """Takes the same seconds for each trial, of a clock that all callers share."""

    def __init__(self, work: Work, seconds: float) -> None:
        self._work = work
        self._seconds = seconds

    def trial(self, batch_size: int) -> Sequence[Any]:
        self._work.spend(self._seconds)
        return ()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    monkeypatch.setattr(layout, "time", work)
    return work


def measure(work: Work, seconds: dict[int, float], *, cores: int) -> tuple[Layout, FakeRunner]:
    """Measures runners that take so many seconds for a trial, by their number of threads."""

    def load(threads: int) -> FakeRunner:
        work.loaded.append(threads)
        return FakeRunner(work, seconds[threads])

    return measured_layout(load, "m 1", cores=cores)


def say_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, (1, 1)), (2, (2, 1)), (4, (4, 1)), (8, (8, 1)), (16, (8, 2)), (32, (8, 4)), (128, (8, 4))],
)
def test_each_core_has_a_batch_of_its_own_up_to_eight_and_then_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: tuple[int, int]
) -> None:
    say_cores(monkeypatch, 3)
    assert default_layout(HERE, cores=cores, runners=0, threads=0) == expected


def test_two_cores_take_one_step_together_unless_told() -> None:
    assert default_layout(HERE, cores=2, runners=0, threads=0, steps=True) == (1, 2)
    assert default_layout(HERE, cores=2, runners=2, threads=0, steps=True) == (2, 1)
    assert default_layout(HERE, cores=2, runners=0, threads=1, steps=True) == (2, 1)
    assert default_layout(HERE, cores=4, runners=0, threads=0, steps=True) == (4, 1)
    assert default_layout(GPU, cores=2, runners=0, threads=0, steps=True) == (1, 1)


def test_without_a_number_of_cores_those_count_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    say_cores(monkeypatch, 3)
    assert default_layout(HERE, cores=0, runners=0, threads=0) == (3, 1)


def test_what_is_given_is_kept_and_the_rest_follows_from_it() -> None:
    assert default_layout(HERE, cores=8, runners=0, threads=4) == (2, 4)
    assert default_layout(HERE, cores=8, runners=3, threads=0) == (3, 1)
    assert default_layout(HERE, cores=2, runners=5, threads=6) == (5, 6)
    assert default_layout(HERE, cores=2, runners=0, threads=6) == (1, 6)


def test_a_gpu_takes_one_batch_after_the_other_unless_told() -> None:
    assert default_layout(GPU, cores=16, runners=0, threads=0).runners == 1
    assert default_layout(GPU, cores=16, runners=2, threads=0).runners == 2


def test_runners_share_cores_with_the_event_loop_on_a_cpu_with_a_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    say_cores(monkeypatch, 3)
    assert shared_cores(Layout(2, 1), HERE.name, 0) == 3
    assert shared_cores(Layout(2, 1), HERE.name, 2) == 2
    assert shared_cores(Layout(1, 2), HERE.name, 2) == 0
    assert shared_cores(Layout(2, 1), GPU.name, 2) == 0


@pytest.mark.parametrize("fastest", [1, 2, 4])
def test_the_layout_with_the_fastest_runner_is_taken_with_that_runner(work: Work, fastest: int) -> None:
    seconds = {threads: 0.001 if threads == fastest else 0.004 for threads in (1, 2, 4)}
    found, runner = measure(work, seconds, cores=4)
    assert found.threads == fastest
    assert runner._seconds == 0.001


def test_a_runner_is_loaded_once_for_each_number_of_threads(work: Work) -> None:
    measure(work, dict.fromkeys((1, 2, 4), 0.001), cores=4)
    assert work.loaded == [1, 2, 4]


@pytest.mark.parametrize("cores", [1, 2, 3, 6, 16, 64])
def test_no_layout_wants_more_cores_than_there_are_and_none_comes_twice(cores: int) -> None:
    tried = list(layout._candidates(cores))
    assert len(set(tried)) == len(tried)
    assert all(each.runners >= 1 and each.runners * each.threads <= cores for each in tried)
    assert (min(cores, 16), 1) in tried


def test_the_log_says_how_fast_each_layout_is_and_how_to_ask_for_the_one_taken(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        measure(work, {1: 0.001}, cores=1)
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("autotune m 1: 1 x 1 thread: 3")  # 32 rows in a millisecond
    assert first.endswith(" rows a second")
    assert last == "autotune m 1: takes 1 x 1 thread (--runners 1 --threads 1)"
