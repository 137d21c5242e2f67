"""Waiting work by a size, oldest first in each."""

import collections
from typing import Any

from hiddenstate_server.work import Work

# Batches in a row that bulk work lets interactive work go before it.
_PASSED_OVER = 4


class Buckets:
    """Work in first-in-first-out order within each size."""

    __slots__ = ("_waiting", "count")

    def __init__(self) -> None:
        self.count = 0
        self._waiting: dict[int, collections.deque[Any]] = {}

    def put(self, size: int, work: Work) -> None:
        """Adds work."""
        self.count += 1
        waiting = self._waiting.get(size)
        if waiting is None:
            waiting = self._waiting[size] = collections.deque()
        waiting.append(work)

    def sizes(self) -> list[int]:
        """Returns the sizes that something waits in."""
        return list(self._waiting)

    def holds(self, size: int) -> bool:
        """Tells whether something waits in a size."""
        return size in self._waiting

    def oldest(self, size: int) -> Any:
        """Returns the work that has waited longest in a size."""
        return self._waiting[size][0]

    def arrival(self, size: int) -> int:
        """Returns when the oldest work of a size arrived."""
        work: Work = self._waiting[size][0]
        return work.arrival

    def pop(self, size: int) -> Any:
        """Removes and returns the work that has waited longest in a size."""
        waiting = self._waiting[size]
        work = waiting.popleft()
        if not waiting:
            del self._waiting[size]
        self.count -= 1
        return work


class Priorities:
    """What is interactive and what is bulk. Bulk work rides along and, passed over too often, has its turn."""

    __slots__ = ("_bulk", "_interactive", "_passed_over")

    def __init__(self) -> None:
        self._interactive = Buckets()
        self._bulk = Buckets()
        self._passed_over = 0

    @property
    def count(self) -> int:
        """Work that waits."""
        return self._interactive.count + self._bulk.count

    def put(self, size: int, work: Work) -> None:
        """Adds work."""
        (self._bulk if work.is_bulk else self._interactive).put(size, work)

    def turn(self) -> tuple[Buckets, Buckets]:
        """Returns those whose turn the next batch is, and those who may fill it up."""
        bulk_first = self._bulk.count and (not self._interactive.count or self._passed_over >= _PASSED_OVER)
        self._passed_over = 0 if bulk_first or not self._bulk.count else self._passed_over + 1
        return (self._bulk, self._interactive) if bulk_first else (self._interactive, self._bulk)


def share(count: int, sharers: int) -> int:
    """Returns how much of `count` waiting work one of `sharers` free threads takes: an equal part, but no crumbs."""
    return max(_CRUMB, -(-count // sharers))


# Rows that are computed about as fast together as half of them are alone.
_CRUMB = 16
