"""How many batches of a model run at a time, on how many threads each: by the number of cores, or measured."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from hiddenstate_server.providers import CPU, Provider

# More would share one interpreter lock, and each take smaller batches.
_MOST_RUNNERS = 8
_MOST_THREADS = 8  # a recurrent step is too small to gain from more
_TRIAL_S = 0.4
_BATCH_SIZE = 32

_log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """Batches that run at a time, and intra-op threads of each."""

    runners: int
    threads: int

    def __str__(self) -> str:
        return f"{self.runners} x {self.threads} thread{'s' if self.threads > 1 else ''}"


class Runner(Protocol):
    """Runs a model's graphs; any number of threads may share it."""

    def trial(self, batch_size: int) -> Sequence[Any]:
        """Runs a typical batch."""


R = TypeVar("R", bound=Runner)


def default_layout(provider: Provider, *, cores: int, runners: int, threads: int, steps: bool = False) -> Layout:
    """Returns the layout for so many cores (0: all that the process may use); what is not 0 is as given.

    All cores get a batch of their own, up to eight: a small recurrent step gains little from several threads, and while
    one batch is computed the callers of another are answered. A model that `steps` reads all its weights for a token of
    each context, so where there are two cores both work on one large batch: some 20 % faster, and no context waits for
    two (benchmarks: step, contexts). A GPU takes one batch after the other.
    """
    cores = cores or available_cores()
    if steps and cores == 2 and provider.name == CPU and not (runners or threads):
        return Layout(runners=1, threads=2)
    threads = threads or max(1, min(4, cores // _MOST_RUNNERS))
    if not runners:
        runners = max(1, min(_MOST_RUNNERS, cores // threads)) if provider.name == CPU else 1
    return Layout(runners, threads)


def shared_cores(layout: Layout, provider: str, cores: int) -> int:
    """Returns how many cores a layout's runners share with all else that the process does; 0 where that is no concern.

    A GPU's runners wait for it, and what several threads of a runner use cannot be told from the rest.
    """
    return 0 if layout.threads > 1 or provider != CPU else cores or available_cores()


def measured_layout(load: Callable[[int], R], name: str, *, cores: int) -> tuple[Layout, R]:
    """Tries layouts for so many cores (0: all that the process may use) and returns the fastest with its runner.

    Logs how fast each is. `load` loads the model for so many threads. Takes about half a second for each layout.
    """
    found: list[tuple[float, Layout, R]] = []
    for layout in _candidates(cores or available_cores()):
        same = (runner for _, other, runner in found if other.threads == layout.threads)
        runner = next(same, None) or load(layout.threads)
        rate = _rate(runner, layout)
        _log.info("autotune %s: %s: %s rows a second", name, layout, f"{rate:,.0f}")
        found.append((rate, layout, runner))
    rate, layout, runner = max(found, key=lambda each: each[0])
    _log.info("autotune %s: takes %s (--runners %d --threads %d)", name, layout, *layout)
    return layout, runner


def _candidates(cores: int) -> Iterator[Layout]:
    """Yields layouts that use all cores, and those that leave one or half of them to the callers' side."""
    threads = 1
    while threads <= min(cores, _MOST_THREADS):
        most = min(cores // threads, 2 * _MOST_RUNNERS)
        for runners in sorted({most, max(1, most - 1), max(1, most // 2)}):
            yield Layout(runners, threads)
        threads *= 2


def _rate(runner: Runner, layout: Layout) -> float:
    """Returns rows a second of all threads together."""
    runner.trial(_BATCH_SIZE)
    runs = [0] * layout.runners
    started_at = time.perf_counter()
    until = started_at + _TRIAL_S

    def work(number: int) -> None:
        while time.perf_counter() < until:
            runner.trial(_BATCH_SIZE)
            runs[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(layout.runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(runs) * _BATCH_SIZE / (time.perf_counter() - started_at)


def available_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0))
