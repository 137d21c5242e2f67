"""Finds out when a process can serve no longer as it should: a batch that does not end, a model that fails whatever it
is given, or too much memory.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hiddenstate_server.config import MIB, Settings, flag
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.scheduler import Scheduler

_LOOK_EVERY_S = 1.0
# Batches in a row. Callers may be at fault, so that such a model is then tried with what is known to be good.
_MOST_FAILURES = 3
_STATM = Path("/proc/self/statm")


class Trouble(NamedTuple):
    """Why the process has to end."""

    reason: str
    hung: Sequence[Scheduler] = ()  # whose batches do not end; empty where what runs can be finished


class Watchdog:
    """Looks every second. Belongs to the event loop, which no model run holds up."""

    def __init__(
        self,
        schedulers: Callable[[], Iterable[Scheduler]],
        settings: Settings,
        resident_bytes: Callable[[], int] | None = None,
    ) -> None:
        """Looks at nothing yet.

        Args:
            schedulers: Of all models that are served, or still run.
            settings: With the limits.
            resident_bytes: Tells what the process uses; None asks the system.

        Raises:
            ConfigError: --max-memory cannot be watched here, or the process uses more already.
        """
        self._schedulers = schedulers
        self._batch_timeout_s = settings.batch_timeout_s
        self._max_memory = settings.max_memory
        self._resident_bytes = resident_bytes or resident_memory
        self._look_every_s = min(_LOOK_EVERY_S, self._batch_timeout_s / 4 or _LOOK_EVERY_S)
        if self._max_memory:
            self._check_start(is_known=resident_bytes is not None or sys.platform == "linux")

    async def trouble(self) -> Trouble:
        """Returns when there is any."""
        while (trouble := self.look() or await self._broken()) is None:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(self._look_every_s)
        return trouble

    def look(self) -> Trouble | None:
        """Tells what is wrong now, if anything is."""
        return self._hung() or self._full()

    def _hung(self) -> Trouble | None:
        now = time.monotonic()
        if not self._batch_timeout_s:
            return None
        hung = [each for each in self._schedulers() if each.running_s(now) > self._batch_timeout_s]
        if not hung:
            return None
        names = ", ".join(each.name for each in hung)
        return Trouble(f"{names}: a batch runs for more than {self._batch_timeout_s:g} s (--batch-timeout-s)", hung)

    async def _broken(self) -> Trouble | None:
        for scheduler in self._schedulers():
            if scheduler.trial is None or scheduler.failures < _MOST_FAILURES:
                continue
            failures, scheduler.failures = scheduler.failures, 0
            try:
                await asyncio.wait_for(asyncio.to_thread(scheduler.trial), self._batch_timeout_s or None)
            except Exception as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                return Trouble(f"{scheduler.name}: {failures} batches in a row failed, and so does a trial: {reason}")
        return None

    def _full(self) -> Trouble | None:
        if not self._max_memory or (used := self._resident_bytes()) <= self._max_memory:
            return None
        return Trouble(f"the process uses {_text(used)} of memory, more than {_text(self._max_memory)} (--max-memory)")

    def _check_start(self, *, is_known: bool) -> None:
        if not is_known:
            raise ConfigError(f"{flag('max_memory')}: cannot be watched on {sys.platform}; leave it out")
        if trouble := self._full():
            raise ConfigError(f"{flag('max_memory')}: {trouble.reason} before it serves; allow more")


def resident_memory() -> int:
    """Returns the bytes of memory that this process uses. On Linux only."""
    pages = int(_STATM.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _text(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"
