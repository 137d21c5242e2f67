"""A call to one of our own models through the protocol: its model, and its place in the statistics."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar
from weakref import ref

from hiddenstate_server.errors import ShuttingDownError
from hiddenstate_server.inference.statistics import RunTimes, Statistics
from hiddenstate_server.results import Usage

_NS_PER_US = 1000

M = TypeVar("M")


def served(model: "ref[M]") -> M:
    """Returns the model of an adapter, which does not keep it alive.

    Raises:
        ShuttingDownError: it is unloaded.
    """
    if (found := model()) is None:
        raise ShuttingDownError("the model has been unloaded")
    return found


class CallAccount:
    """Counts the call that its block makes: answered if `answered` was called, else failed.

    Its rows are computed beside those of other calls, a token or a sentence at a time, so that no run is its own: each
    call counts as one execution of all of its rows.
    """

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._started_ns = 0
        self._rows = 0
        self._usages: Sequence[Usage] = ()

    def __enter__(self) -> "CallAccount":
        self._started_ns = time.perf_counter_ns()
        return self

    def answered(self, rows: int, usages: Sequence[Usage]) -> None:
        """Takes down what was answered."""
        self._rows, self._usages = rows, usages

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        total_ns = time.perf_counter_ns() - self._started_ns
        if not self._rows:
            self._statistics.failed(total_ns=total_ns)
            return
        times = RunTimes(infer_ns=_NS_PER_US * max(usage.compute_time_us for usage in self._usages))
        queue_ns = _NS_PER_US * max(usage.queue_time_us for usage in self._usages)
        self._statistics.executed(rows=self._rows, times=times)
        self._statistics.succeeded(rows=self._rows, total_ns=total_ns, queue_ns=queue_ns, times=times)
