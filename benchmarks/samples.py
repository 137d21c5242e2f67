"""What a load measured."""

import time
from dataclasses import dataclass, field

import numpy as np


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


class Clock:
    """Counts what ends between two moments."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._first = len(samples.seconds)
        self._begun = time.perf_counter()

    def read(self, refused: Samples | None = None, times: int = 1) -> Measured:
        """Returns what ended since the clock was made; each sample stands for `times` answers."""
        seconds = time.perf_counter() - self._begun
        ended = Samples(self._samples.seconds[self._first :])
        refused = refused or Samples()
        return Measured(
            per_s=times * len(ended.seconds) / seconds,
            p50_ms=ended.quantile_ms(0.5),
            p99_ms=ended.quantile_ms(0.99),
            count=times * len(ended.seconds),
            refused=len(refused.seconds),
            refused_p99_ms=refused.quantile_ms(0.99) if refused.seconds else 0.0,
        )
