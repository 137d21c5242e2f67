"""One timer for the deadlines of any number of calls."""

import asyncio
import math
from collections.abc import Callable

_SWEEP_EVERY_S = 0.01  # at most: looking at thousands of calls for each of thousands of deadlines would take all day


class Sweeper:
    """Calls `sweep` when the earliest of the deadlines that were given has come.

    Nothing is done when a call ends: its deadline merely causes a look at those that are left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sweep: Callable[[float], float]) -> None:
        """Makes one.

        Args:
            loop: The event loop, whose clock the deadlines are of.
            sweep: Ends the calls whose deadline is not after its argument; returns the earliest of the others.
        """
        self._loop = loop
        self._sweep = sweep
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """Has `sweep` called at a deadline, unless it will be before."""
        if deadline < self._at:
            self.stop()
            self._at = deadline
            self._timer = self._loop.call_at(deadline, self._run)

    def stop(self) -> None:
        """Forgets all deadlines."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = None, math.inf

    def _run(self) -> None:
        now = self._loop.time()
        self._timer, self._at = None, math.inf
        earliest = self._sweep(now)
        if earliest < math.inf:
            self.watch(max(earliest, now + _SWEEP_EVERY_S))
