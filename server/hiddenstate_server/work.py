"""A piece of work for a model, from when it is handed in until its owner hears that it is over."""

import math
import time
from collections.abc import Callable
from typing import Any

from hiddenstate_server.errors import ServingError


class Work:
    """Something to compute. It carries its own answer; `told` is how its owner hears of it."""

    __slots__ = (
        "abandoned",
        "arrival",
        "batch_s",
        "compute_s",
        "deadline",
        "dropped",
        "error",
        "finished_at",
        "is_bulk",
        "over",
        "size",
        "submitted_at",
        "told",
        "trace",
    )

    def __init__(self, size: int, deadline: float = math.inf, is_bulk: bool = False) -> None:
        self.size = size  # tokens, for admission
        self.deadline = deadline  # of time.monotonic()
        self.is_bulk = is_bulk  # whether it goes behind what is interactive
        self.arrival = 0  # its number among all that were submitted
        self.told: Callable[[bool], None] = _ignore  # on the event loop when there is news; True at the end, once
        self.abandoned = False  # set by the event loop when nobody waits for it any more
        self.over = False  # set by the runner thread
        self.dropped = False  # over without an answer: it expired, failed, or nobody waited for it any more
        self.error: ServingError | None = None
        self.submitted_at = 0.0
        self.finished_at = 0.0
        self.compute_s = 0.0  # time of the batches it was part of
        self.batch_s = 0.0  # time of the last of them
        self.trace: Any = None  # of the call that it belongs to, where that is traced

    def drop(self, error: ServingError | None) -> None:
        """Ends it without an answer; with no error where nobody waits for it any more."""
        self.error = error
        self.over = self.dropped = True
        self.finished_at = time.monotonic()

    def tell_nobody(self) -> None:
        """Lets go of its owner."""
        self.told = _ignore

    def queue_s(self) -> float:
        """Returns the time that it has waited for the model, in seconds, once it is over."""
        return max(0.0, self.finished_at - self.submitted_at - self.compute_s)


def _ignore(over: bool) -> None:
    pass
