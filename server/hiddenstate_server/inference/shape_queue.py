"""Which calls of a tensor model are run together: those whose tensors fit side by side along the batch axis."""

import collections
import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from hiddenstate_server.inference.statistics import RunTimes
from hiddenstate_server.inference.tensors import Tensors
from hiddenstate_server.queue_metrics import Releases
from hiddenstate_server.scheduler import Work

_NO_TIMES = RunTimes()


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Call(Work):
    """One call of a model."""

    inputs: Tensors  # all that the graph takes
    outputs: Sequence[str]  # what is wanted of it
    rows: int
    fits: Hashable = None  # calls in which this is equal can be run together
    answer: Tensors = dataclasses.field(default_factory=dict)
    times: RunTimes = _NO_TIMES  # of the run it was part of
    taken: bool = False  # out of the queue


class ShapeQueue:
    """Waiting calls by the shapes of their tensors."""

    def __init__(self, *, max_batch: int, releases: Releases | None = None) -> None:
        """Takes the most rows of a run; 0 runs each call by itself. `releases` counts the batches."""
        self._releases = releases or Releases.uncounted()
        self._max_batch = max_batch
        self._order: collections.deque[Call] = collections.deque()
        self._waiting: dict[Hashable, collections.deque[Call]] = {}

    def put(self, work: Call) -> None:
        """Adds a call."""
        self._order.append(work)
        self._waiting.setdefault(work.fits, collections.deque()).append(work)

    def take(self, sharers: int) -> list[Call]:
        """Removes and returns the call that has waited longest and those behind it that fit; one thread takes all."""
        while self._order and self._order[0].taken:  # it went with an older one
            self._order.popleft()
        if not self._order:
            return []
        fits = self._order.popleft().fits
        waiting = self._waiting[fits]
        batch = [waiting.popleft()]
        rows = batch[0].rows
        while waiting and (rows := rows + waiting[0].rows) <= self._max_batch:
            batch.append(waiting.popleft())
        if not waiting:
            del self._waiting[fits]
        for call in batch:
            call.taken = True
        limit = len(batch) if waiting else self._max_batch + 1  # the next that fits would be too much
        self._releases.batch(size=len(batch), left=len(self._waiting), share=limit, limit=limit)
        return batch


def fits(inputs: Tensors, axes: Mapping[str, int | None]) -> Hashable:
    """Returns what has to be equal in calls that are run together: shapes apart from the batch axis, and all of what
    has none."""
    return tuple(
        _value(array) if (axis := axes[name]) is None else array.shape[:axis] + array.shape[axis + 1 :]
        for name, array in inputs.items()
    )


def _value(array: NDArray[Any]) -> Hashable:
    return array.shape, tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes()
