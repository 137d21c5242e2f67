"""What is counted where work waits for a model: why batches leave, and what is turned away.

Everything here is a tally with one writer, so that counting costs a batch no lock: batches are counted by the runner
thread whose turn it is, refusals by the event loop.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from prometheus_client import CollectorRegistry

from hiddenstate_server.errors import RefusalReason
from hiddenstate_server.tallies import Tally, counters, gauges

ReleaseReason = Literal["full", "all", "part", "alike"]
QUEUE_REFUSALS: tuple[RefusalReason, ...] = ("queue_full", "queue_slow", "too_large")

_MODEL = ("model", "version")


class Releases(NamedTuple):
    """Batches of one model, by what kept them from being larger."""

    full: Tally  # as large as a batch may be
    all: Tally  # nothing else waited
    part: Tally  # the rest is left to the model's other runner threads
    alike: Tally  # what else waits is of another size

    @classmethod
    def uncounted(cls) -> "Releases":
        """Makes one that no metrics page shows."""
        return cls(*(Tally() for _ in cls._fields))

    def batch(self, *, size: int, left: int, share: int, limit: int) -> None:
        """Counts a batch of a `size`: `left` wait on, it might have had `share` for its part and `limit` at most."""
        if not left:
            self.all.value += 1
        elif size >= limit:
            self.full.value += 1
        elif size >= share:
            self.part.value += 1
        else:
            self.alike.value += 1


class QueueCounts(NamedTuple):
    """What one model's queue counts."""

    releases: Releases
    refusals: dict[RefusalReason, Tally]


class QueueMetrics:
    """The families of all models' queues."""

    def __init__(self, registry: CollectorRegistry) -> None:
        reason = (*_MODEL, "reason")
        self._released = counters(
            registry,
            "hiddenstate_batches_released",
            "Batches, by why no more went along: full, all (that waited), part (of one runner), alike (in size).",
            reason,
        )
        self._refused = counters(
            registry,
            "hiddenstate_queue_refused",
            "Requests that a model's queue refused: queue_full, queue_slow (the deadline would pass), too_large.",
            reason,
        )
        self._max_rows = gauges(registry, "hiddenstate_batch_limit_rows", "Most rows of a model run.", _MODEL)
        self._max_tokens = gauges(
            registry, "hiddenstate_queue_limit_tokens", "Most tokens that may wait for the model.", _MODEL
        )

    def of_model(self, model: str, version: str, *, max_rows: int, max_tokens: int) -> QueueCounts:
        """Returns what a model's queue counts; at most `max_rows` go together and `max_tokens` wait."""
        self._max_rows.labels(model, version).value = max_rows
        self._max_tokens.labels(model, version).value = max_tokens
        released = [self._released.labels(model, version, reason) for reason in get_args(ReleaseReason)]
        refused = {reason: self._refused.labels(model, version, reason) for reason in QUEUE_REFUSALS}
        return QueueCounts(Releases(*released), refused)

    def forget(self, model: str, version: str) -> None:
        """Ends the series of a model that is served no longer."""
        families = (self._released, self._refused, self._max_rows, self._max_tokens)
        for family in families:
            family.forget(model, version)


def uncounted_refusals(reasons: Iterable[RefusalReason] = QUEUE_REFUSALS) -> dict[RefusalReason, Tally]:
    """Makes tallies that no metrics page shows."""
    return {reason: Tally() for reason in reasons}
