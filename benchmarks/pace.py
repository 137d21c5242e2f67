"""Calls begun at a rate, as callers do who know nothing of each other: nobody waits for another's answer."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from benchmarks.load import Load
from benchmarks.samples import Clock, Measured, Samples

_TICK_S = 0.001
_ANSWER_S = 15.0  # the most that is waited for the last answers


class Calls(Protocol):
    """What begins calls."""

    samples: Samples
    refused: Samples

    @property
    def running(self) -> int:
        """Calls without an answer."""

    def begin(self, dues: Sequence[float]) -> None:
        """Begins a call for each moment when one was due; their durations count from there."""


async def paced(load: Load, calls: Calls) -> Measured:
    """Begins `load.per_s` calls a second.

    The durations are of all that were begun; the rate is of those that ended by then and within `load.timeout_s`.
    """
    behind = Samples()
    begin = _beginning(load.per_s, calls.begin, behind)
    await _until(time.perf_counter() + load.warm_up_s, begin)
    clock = Clock(load.server_pid, calls.samples, calls.refused)
    await _until(time.perf_counter() + load.seconds, begin)
    measured = clock.read(patience_s=load.timeout_s)
    until = time.perf_counter() + _ANSWER_S
    while calls.running and time.perf_counter() < until:  # noqa: ASYNC110 - simpler than an event, and bounded
        await asyncio.sleep(0.01)
    all_begun = clock.read(patience_s=load.timeout_s)
    return dataclasses.replace(
        all_begun,
        per_s=measured.per_s,
        count=measured.count,
        unanswered=calls.running,
        behind_p99_ms=behind.quantile_ms(0.99),
        grown_bytes=measured.grown_bytes,
        wall_s=measured.wall_s,
        server_cpu_s=measured.server_cpu_s,
        load_cpu_s=measured.load_cpu_s,
    )


def _beginning(per_s: float, begin: Callable[[Sequence[float]], None], behind: Samples) -> Callable[[], None]:
    """Returns a function that begins all calls that are due."""
    started, begun = time.perf_counter(), 0

    def begin_due() -> None:
        nonlocal begun
        now = time.perf_counter()
        due = int((now - started) * per_s)
        if due > begun:
            dues = [started + (number + 1) / per_s for number in range(begun, due)]
            begin(dues)
            behind.add(time.perf_counter() - dues[0])
            begun = due

    return begin_due


async def _until(end: float, begin: Callable[[], None]) -> None:
    while time.perf_counter() < end:
        begin()
        await asyncio.sleep(_TICK_S)
