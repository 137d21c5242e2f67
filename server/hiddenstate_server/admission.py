"""How much work may wait for a model, and for how long."""

import math
from collections.abc import Sequence
from typing import Protocol

from hiddenstate_server.errors import DeadlineError, OverloadedError, RefusalReason, ServingError
from hiddenstate_server.queue_metrics import uncounted_refusals
from hiddenstate_server.tallies import Tally

# Seconds over which a rate is averaged, and for which it is believed once the queue is short again: some batches of the
# slowest models, and less than a caller's patience.
_WINDOW_S = 2.0
# A request is refused when the queue and its own batch would take this part of the time that it has: estimates err, and
# the way to the queue and back takes time as well.
_PATIENCE = 0.7
# How much of what is known of the batches' duration is the latest one's.
_LATEST = 0.2
_NOT = -1.0
# Refusals whose numbers are the same power of this base, rounded, read alike: they differ by 5 % at most.
_ALIKE = 1.05
_PER_NAT = 1 / math.log(_ALIKE)
_KEPT_REFUSALS = 64
_LATE = (
    "the deadline had passed when the request came to the model's queue; if it was streamed, it may have lain unread"
)
_LATE_REFUSAL = DeadlineError(_LATE)


class Waiting(Protocol):
    """The part of a work that counts here."""

    @property
    def size(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @property
    def is_bulk(self) -> bool: ...
    @property
    def dropped(self) -> bool: ...
    @property
    def batch_s(self) -> float: ...


class Admission:
    """Counts the tokens that wait for one model, and refuses what would wait in vain. Belongs to the event loop.

    How fast the queue moves is seen where it is full: while more than a batch waits, the tokens that end in a second
    are what the model can do. What was dropped is not among them: under overload much is, and at no cost. Unless that
    was seen a short time ago nothing is refused for its deadline.
    """

    __slots__ = (
        "_batch_s",
        "_busy_since",
        "_full_batch",
        "_in_turns",
        "_max_waiting_tokens",
        "_refusals",
        "_seconds",
        "_seen_at",
        "_tokens",
        "_told",
        "_waiting_interactive",
        "waiting_tokens",
        "waiting_works",
    )

    def __init__(
        self,
        *,
        max_waiting_tokens: int,
        full_batch: int,
        in_turns: bool = False,
        refusals: dict[RefusalReason, Tally] | None = None,
    ) -> None:
        """`full_batch` is the number of waiting works above which the model is taken to be busy throughout.

        Works that advance `in_turns` wait for no more tokens of another than they have themselves. `refusals` counts
        requests that were refused.
        """
        self.waiting_works = 0
        self.waiting_tokens = 0
        self._refusals = refusals or uncounted_refusals()
        self._waiting_interactive = 0  # tokens
        self._max_waiting_tokens = max_waiting_tokens
        self._full_batch = full_batch
        self._in_turns = in_turns
        self._busy_since = _NOT
        self._tokens = 0.0  # that ended in the last seconds in which the model was busy, and those seconds
        self._seconds = 0.0
        self._seen_at = -math.inf
        self._told: dict[tuple[int, int, int], OverloadedError] = {}  # refusals for a deadline, by their numbers
        self._batch_s = 0.0  # that a batch takes while the model is busy: an answer comes when its whole batch is done

    def admit(self, works: Sequence[Waiting], now: float) -> None:
        """Takes in all works or none; `now` is of time.monotonic().

        Raises:
            DeadlineError: a deadline has passed.
            OverloadedError: more tokens would wait than may, or so many go first that a deadline would pass.
        """
        size, deadline, is_bulk = 0, math.inf, works[0].is_bulk
        for work in works:
            size += work.size
            deadline = min(deadline, work.deadline)
        if deadline <= now:
            raise DeadlineError(_LATE)
        if size > self._max_waiting_tokens:
            raise self._refused(
                f"this request has {size:,} tokens, the queue takes {self._max_waiting_tokens:,} "
                "(--max-waiting-tokens); send it in smaller parts",
                None,
                "too_large",
            )
        if self.waiting_tokens + size > self._max_waiting_tokens:
            raise self._refused(
                f"the queue holds {self.waiting_tokens:,} tokens and takes {self._max_waiting_tokens:,}; "
                f"this request has {size:,}: send it again later, or in smaller parts",
                self.wait_s(self.waiting_tokens + size - self._max_waiting_tokens),
                "queue_full",
            )
        self.check(deadline, now, is_bulk, size)
        self.waiting_works += len(works)
        self.waiting_tokens += size
        if not is_bulk:
            self._waiting_interactive += size

    def check(self, deadline: float, now: float, is_bulk: bool, size: int = 1) -> None:
        """Refuses what would wait in vain, so that no more needs to be done for it.

        `size` is the number of its tokens, as far as that is known.

        Raises:
            DeadlineError: the deadline has passed.
            OverloadedError: so many tokens go first that the deadline would pass.
        """
        if deadline <= now:
            raise DeadlineError(_LATE)
        ahead = self._in_vain(deadline, now, is_bulk, size)
        if ahead:
            raise self._slow(ahead, deadline - now)

    def refusal(self, deadline: float, now: float, is_bulk: bool, size: int = 1) -> ServingError | None:
        """Returns what `check` would raise; None where it would not. It is not to be raised, as others have it too.

        Under overload there are tens of thousands a second: those that read about alike are one.
        """
        if deadline <= now:
            return _LATE_REFUSAL
        ahead = self._in_vain(deadline, now, is_bulk, size)
        if not ahead:
            return None
        left = deadline - now
        numbers = _coarse(ahead), _coarse(left), _coarse(1.0 + self.waiting_tokens)
        known = self._told.get(numbers)
        if known is not None:
            self._refusals["queue_slow"].value += 1
            return known
        if len(self._told) == _KEPT_REFUSALS:
            self._told.clear()
        refusal = self._told[numbers] = self._slow(ahead, left)
        return refusal

    def release(self, works: Sequence[Waiting], now: float) -> None:
        """Lets go of works that are over."""
        done, batch_s = 0, 0.0
        for work in works:
            self.waiting_tokens -= work.size
            if not work.is_bulk:
                self._waiting_interactive -= work.size
            if not work.dropped:
                done += work.size
                batch_s = max(batch_s, work.batch_s)
        self.waiting_works -= len(works)
        self._observe(done, batch_s, now)

    def wait_s(self, tokens: int) -> float:
        """Returns about how long the model takes for so many tokens, in seconds; 0 if that is not known yet."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0

    def _observe(self, size: int, batch_s: float, now: float) -> None:
        if self._busy_since != _NOT:
            if batch_s:
                self._batch_s += _LATEST * (batch_s - self._batch_s)
            passed = now - self._busy_since
            fades = math.exp(-passed / _WINDOW_S)
            self._tokens = self._tokens * fades + size
            self._seconds = self._seconds * fades + passed
            self._seen_at = now
        self._busy_since = now if self.waiting_works > self._full_batch else _NOT

    def _in_vain(self, deadline: float, now: float, is_bulk: bool, size: int) -> float:
        """Returns about how long a request would wait for its answer, in seconds; 0 where that is soon enough."""
        if deadline == math.inf or not self.waiting_works:
            return 0.0
        if self._busy_since == _NOT and now - self._seen_at > _WINDOW_S:
            return 0.0
        first = self.waiting_tokens if is_bulk else self._waiting_interactive
        if self._in_turns:
            first = min(first, self.waiting_works * size)
        ahead = self.wait_s(first + size)
        ahead += min(self._batch_s, 2 * ahead)  # its own batch is a small one where little waits
        return ahead if ahead > _PATIENCE * (deadline - now) else 0.0

    def _slow(self, ahead: float, left: float) -> OverloadedError:
        return self._refused(
            f"the queue holds {self.waiting_tokens:,} tokens, about {_rounded(ahead)} s of work, and this "
            f"request has {_rounded(left)} s: send it again later, or with a longer timeout",
            ahead - _PATIENCE * left,
            "queue_slow",
        )

    def _refused(self, message: str, retry_after_s: float | None, reason: RefusalReason) -> OverloadedError:
        self._refusals[reason].value += 1
        seconds = None if retry_after_s is None else max(0.001, retry_after_s)
        return OverloadedError(message, retry_after_s=seconds, reason=reason)


def _coarse(number: float) -> int:
    return round(math.log(number) * _PER_NAT)


def _rounded(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"
