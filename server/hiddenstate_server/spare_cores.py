"""How many runner threads of a model find a core beside all else that the process does.

Where callers make calls of their own, the event loop needs a core for itself. If then as many batches are computed at a
time as there are cores, all get less done: the loop comes late to what has to be read and answered, batches are small,
and each run waits for a core again and again. What the loop and gRPC use is seen in the process's processor time.
"""

import threading
import time
from collections.abc import Sequence

_WINDOW_S = 0.1  # over which processor time is measured: some batches
_LATEST = 0.5  # how much of what is known is the last window's


def spare_cores(cores: int, threads: Sequence[threading.Thread]) -> "SpareCores | None":
    """Returns what tells how many of a model's threads, which run, find a core; None where that cannot be measured."""
    return SpareCores(cores, threads) if hasattr(time, "pthread_getcpuclockid") else None


class SpareCores:
    """Belongs to the runner thread whose turn it is."""

    __slots__ = ("_at", "_busy", "_clocks", "_cores", "_most", "_others")

    def __init__(self, cores: int, threads: Sequence[threading.Thread]) -> None:
        self._cores = max(cores, len(threads))  # who asks for more runners than cores gets them
        self._clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads if thread.ident is not None]
        self._at = time.monotonic()
        self._others = self._spent_by_others()
        self._busy = 0.0  # cores that all but the runner threads use
        self._most = len(threads)

    def runners(self) -> int:
        """Returns how many of the threads may compute at a time, at least 1."""
        now = time.monotonic()
        if now - self._at >= _WINDOW_S:
            others = self._spent_by_others()
            self._busy += _LATEST * ((others - self._others) / (now - self._at) - self._busy)
            self._at, self._others = now, others
            self._most = max(1, min(len(self._clocks), round(self._cores - self._busy)))
        return self._most

    def _spent_by_others(self) -> float:
        """Returns the processor time, in seconds, of all but the runner threads so far."""
        return time.process_time() - sum(map(time.clock_gettime, self._clocks))
