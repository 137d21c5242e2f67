"""Which calls of a tensor model are run together: those whose tensors fit side by side along the batch axis."""

import collections
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from hiddenstate_server.inference.statistics import RunTimes
from hiddenstate_server.inference.tensors import Tensors
from hiddenstate_server.queue_metrics import Releases
from hiddenstate_server.work import Work

_NO_TIMES = RunTimes()

# Runs in a row that bulk calls let interactive ones go before them, as in buckets.py.
_PASSED_OVER = 4


class Call(Work):
    """One call of a model."""

    __slots__ = ("answer", "fits", "inputs", "outputs", "rows", "taken", "times")

    def __init__(
        self,
        size: int,
        deadline: float = math.inf,
        is_bulk: bool = False,
        *,
        inputs: Tensors,
        outputs: Sequence[str],
        rows: int,
        fits: Hashable = None,
    ) -> None:
        super().__init__(size, deadline, is_bulk)
        self.inputs = inputs  # all that the graph takes
        self.outputs = outputs  # what is wanted of it
        self.rows = rows
        self.fits = fits  # calls in which this is equal can be run together
        self.answer: Tensors = {}
        self.times = _NO_TIMES  # of the run it was part of
        self.taken = False  # out of the queue


class ShapeQueue:
    """Waiting calls by the shapes of their tensors. Bulk ones ride along, and have their turn in the end."""

    def __init__(self, *, max_batch: int, releases: Releases | None = None) -> None:
        """Takes the most rows of a run; 0 runs each call by itself. `releases` counts the batches."""
        self._releases = releases or Releases.uncounted()
        self._max_batch = max_batch
        self._interactive = _Lane()
        self._bulk = _Lane()
        self._passed_over = 0

    def put(self, work: Call) -> None:
        """Adds a call."""
        (self._bulk if work.is_bulk else self._interactive).put(work)

    def take(self, sharers: int) -> list[Call]:
        """Removes and returns the call whose turn it is and those behind it that fit; one thread takes all."""
        lane, other = self._turn()
        if (oldest := lane.oldest()) is None:
            return []
        lane.remove(oldest)
        left = self._max_batch - oldest.rows
        batch = [oldest]
        for each in (lane, other):
            more = each.take(oldest.fits, left)
            left -= sum(call.rows for call in more)
            batch += more
        self._count(batch, oldest.fits)
        return batch

    def _count(self, batch: list[Call], fits: Hashable) -> None:
        lanes = (self._interactive, self._bulk)
        # What waits on and fits had no room left.
        limit = len(batch) if any(lane.holds(fits) for lane in lanes) else len(batch) + 1
        self._releases.batch(size=len(batch), left=sum(lane.kinds for lane in lanes), share=limit, limit=limit)

    def _turn(self) -> "tuple[_Lane, _Lane]":
        """Returns those whose turn the next batch is, and those who may fill it up."""
        bulk, interactive = self._bulk.oldest(), self._interactive.oldest()
        bulk_first = bulk and (not interactive or self._passed_over >= _PASSED_OVER)
        self._passed_over = 0 if bulk_first or not bulk else self._passed_over + 1
        return (self._bulk, self._interactive) if bulk_first else (self._interactive, self._bulk)


class _Lane:
    """Calls in the order in which they came, and in that order among those that fit."""

    def __init__(self) -> None:
        self._order: collections.deque[Call] = collections.deque()
        self._waiting: dict[Hashable, collections.deque[Call]] = {}

    @property
    def kinds(self) -> int:
        """How many groups of calls wait that fit together."""
        return len(self._waiting)

    def holds(self, fits: Hashable) -> bool:
        """Tells whether a call waits that fits."""
        return fits in self._waiting

    def put(self, work: Call) -> None:
        self._order.append(work)
        self._waiting.setdefault(work.fits, collections.deque()).append(work)

    def oldest(self) -> Call | None:
        """Returns the call that has waited longest."""
        while self._order and self._order[0].taken:  # it went with an older one
            self._order.popleft()
        return self._order[0] if self._order else None

    def remove(self, oldest: Call) -> None:
        """Removes what `oldest` returned, which is the oldest of those that fit too."""
        self._pop(oldest.fits)

    def take(self, fits: Hashable, rows: int) -> list[Call]:
        """Removes and returns the oldest calls that fit, together of no more than so many rows."""
        calls = []
        while (waiting := self._waiting.get(fits)) and waiting[0].rows <= rows:
            calls.append(self._pop(fits))
            rows -= calls[-1].rows
        return calls

    def _pop(self, fits: Hashable) -> Call:
        waiting = self._waiting[fits]
        call = waiting.popleft()
        call.taken = True
        if not waiting:
            del self._waiting[fits]
        return call


def fits(inputs: Tensors, axes: Mapping[str, int | None]) -> Hashable:
    """Returns what has to be equal in calls that are run together: shapes apart from the batch axis, and all of what
    has none."""
    return tuple(
        _value(array) if (axis := axes[name]) is None else array.shape[:axis] + array.shape[axis + 1 :]
        for name, array in inputs.items()
    )


def _value(array: NDArray[Any]) -> Hashable:
    return array.shape, tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes()
