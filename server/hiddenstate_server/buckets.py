"""Waiting work by a size, oldest first in each."""

import collections
from collections.abc import Iterator
from typing import Generic, TypeVar

from hiddenstate_server.scheduler import Work

W = TypeVar("W", bound=Work)

# Batches in a row that bulk work lets interactive work go before it.
_PASSED_OVER = 4


class Buckets(Generic[W]):
    """Work in first-in-first-out order within each size."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: dict[int, collections.deque[W]] = {}

    def put(self, size: int, work: W) -> None:
        """Adds work."""
        self.count += 1
        self._waiting.setdefault(size, collections.deque()).append(work)

    def sizes(self) -> Iterator[int]:
        """Yields the sizes that something waits in."""
        return iter(self._waiting)

    def holds(self, size: int) -> bool:
        """Tells whether something waits in a size."""
        return size in self._waiting

    def oldest(self, size: int) -> W:
        """Returns the work that has waited longest in a size."""
        return self._waiting[size][0]

    def pop(self, size: int) -> W:
        """Removes and returns the work that has waited longest in a size."""
        waiting = self._waiting[size]
        work = waiting.popleft()
        if not waiting:
            del self._waiting[size]
        self.count -= 1
        return work


class Priorities(Generic[W]):
    """What is interactive and what is bulk. Bulk work rides along and, passed over too often, has its turn."""

    def __init__(self) -> None:
        self._interactive: Buckets[W] = Buckets()
        self._bulk: Buckets[W] = Buckets()
        self._passed_over = 0

    @property
    def count(self) -> int:
        """Work that waits."""
        return self._interactive.count + self._bulk.count

    def put(self, size: int, work: W) -> None:
        """Adds work."""
        (self._bulk if work.is_bulk else self._interactive).put(size, work)

    def turn(self) -> tuple[Buckets[W], Buckets[W]]:
        """Returns those whose turn the next batch is, and those who may fill it up."""
        bulk_first = self._bulk.count and (not self._interactive.count or self._passed_over >= _PASSED_OVER)
        self._passed_over = 0 if bulk_first or not self._bulk.count else self._passed_over + 1
        return (self._bulk, self._interactive) if bulk_first else (self._interactive, self._bulk)


def share(count: int, sharers: int) -> int:
    """Returns how much of `count` waiting work one of `sharers` free threads takes: an equal part, but no crumbs."""
    return max(_CRUMB, -(-count // sharers))


# Rows that are computed about as fast together as half of them are alone.
_CRUMB = 16
