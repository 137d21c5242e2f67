"""What a load measured."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks.cpu import thread_times, used


@dataclass(slots=True)
class Samples:
    """Durations of what has ended, in seconds, and when the first and the last ended."""

    seconds: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        """Takes the duration of one."""
        self.seconds.append(seconds)

    def quantile_ms(self, quantile: float) -> float:
        """Returns a quantile in milliseconds; NaN without samples."""
        return float(np.quantile(self.seconds, quantile)) * 1e3 if self.seconds else float("nan")


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement, as the load's process hands it to the benchmark's."""

    per_s: float
    p50_ms: float
    p99_ms: float
    count: int
    refused: int = 0
    refused_p99_ms: float = 0.0
    wall_s: float = 0.0
    server_cpu_s: Mapping[str, float] = field(default_factory=dict)  # by thread, as `load_cpu_s`
    load_cpu_s: Mapping[str, float] = field(default_factory=dict)


class Clock:
    """Counts what ends between two moments, and what processor time the server and this process need meanwhile."""

    def __init__(self, samples: Samples, server_pid: int) -> None:
        self._samples = samples
        self._pids = (server_pid, os.getpid())
        self._first = len(samples.seconds)
        self._cpu = [thread_times(pid) for pid in self._pids]
        self._begun = time.perf_counter()

    def read(self, refused: Samples | None = None, times: int = 1) -> Measured:
        """Returns what ended since the clock was made; each sample stands for `times` answers."""
        seconds = time.perf_counter() - self._begun
        server, load = (used(before, thread_times(pid)) for pid, before in zip(self._pids, self._cpu, strict=True))
        ended = Samples(self._samples.seconds[self._first :])
        refused = refused or Samples()
        return Measured(
            per_s=times * len(ended.seconds) / seconds,
            p50_ms=ended.quantile_ms(0.5),
            p99_ms=ended.quantile_ms(0.99),
            count=times * len(ended.seconds),
            refused=len(refused.seconds),
            refused_p99_ms=refused.quantile_ms(0.99) if refused.seconds else 0.0,
            wall_s=seconds,
            server_cpu_s=server,
            load_cpu_s=load,
        )
