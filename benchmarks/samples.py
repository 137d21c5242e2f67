"""What a load measured."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.cpu import thread_times, used
from benchmarks.processes import resident_bytes

TOLD_IN_TIME_S = 0.020  # a call that is refused is to be told so within this


@dataclass(slots=True)
class Samples:
    """Durations of what has ended, in seconds, in the order of their ends."""

    seconds: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        """Takes the duration of one."""
        self.seconds.append(seconds)

    def quantile_ms(self, quantile: float) -> float:
        """Returns a quantile in milliseconds; NaN without samples."""
        return float(np.quantile(self.seconds, quantile)) * 1e3 if self.seconds else float("nan")

    def since(self, first: int) -> "Samples":
        """Returns those from a number on."""
        return Samples(self.seconds[first:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measurement, as the load's process hands it to the benchmark's."""

    per_s: float
    p50_ms: float = float("nan")
    p99_ms: float = float("nan")
    count: int = 0
    late: int = 0  # answered after the caller's patience; not part of the above, but of the quantiles
    refused: int = 0
    refused_p99_ms: float = 0.0
    refused_late: int = 0  # told so after more than 20 ms
    unanswered: int = 0  # neither answered nor refused, long after the end
    behind_p99_ms: float = 0.0  # how late the load itself began calls that were due
    grown_bytes: int = 0  # of the server's resident memory
    wall_s: float = 0.0
    server_cpu_s: Mapping[str, float] = field(default_factory=dict)  # by thread, as `load_cpu_s`
    load_cpu_s: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


class Clock:
    """Counts what ends between two moments, and what processor time the server and this process need meanwhile."""

    def __init__(self, server_pid: int, samples: Samples, refused: Samples | None = None) -> None:
        self._samples = samples
        self._refused = refused or Samples()
        self._first = len(samples.seconds)
        self._first_refused = len(self._refused.seconds)
        self._pids = (server_pid, os.getpid())
        self._bytes = resident_bytes(server_pid)
        self._cpu = [thread_times(pid) for pid in self._pids]
        self._begun = time.perf_counter()

    def read(self, times: int = 1, patience_s: float | None = None) -> Measured:
        """Returns what ended since the clock was made; each sample stands for `times` answers."""
        seconds = time.perf_counter() - self._begun
        server, load = (used(cpu, thread_times(pid)) for pid, cpu in zip(self._pids, self._cpu, strict=True))
        ended = self._samples.since(self._first)
        late = 0 if patience_s is None else sum(each > patience_s for each in ended.seconds)
        refused = self._refused.since(self._first_refused)
        answered = times * (len(ended.seconds) - late)
        return Measured(
            per_s=answered / seconds,
            p50_ms=ended.quantile_ms(0.5),
            p99_ms=ended.quantile_ms(0.99),
            count=answered,
            late=late,
            refused=len(refused.seconds),
            refused_p99_ms=refused.quantile_ms(0.99) if refused.seconds else 0.0,
            refused_late=sum(each > TOLD_IN_TIME_S for each in refused.seconds),
            grown_bytes=resident_bytes(self._pids[0]) - self._bytes,
            wall_s=seconds,
            server_cpu_s=server,
            load_cpu_s=load,
        )
