"""Streams that calls are spread over: one for each of several servers, in turn, and moved on from time to time."""

import itertools
import random
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

# Which server a stream goes to is gRPC's choice among those that answer then. At first this may be only one, and later
# one that was away is back: so streams live shortly at first, longer then.
_FIRST_LIFE_S = 1.0
_LONGEST_LIFE_S = 30.0


class Retirable(Protocol):
    """A stream that can be told to take nothing more."""

    @property
    def ended(self) -> Exception | None: ...
    def retire(self) -> None: ...


S = TypeVar("S", bound=Retirable)


class Rotation(Generic[S]):
    """Holds up to `places` open streams. Threads have to take turns at `renew`."""

    def __init__(self, open_stream: Callable[[], S], places: int) -> None:
        self._open_stream = open_stream
        self._places: list[S | None] = [None] * places
        self._due = [0.0] * places
        self._life_s = [_FIRST_LIFE_S] * places
        self._turns = itertools.count()

    @property
    def streams(self) -> list[S]:
        """Those that were opened last."""
        return [stream for stream in self._places if stream is not None]

    def turn(self) -> int:
        """Returns the place whose turn it is."""
        return next(self._turns) % len(self._places) if len(self._places) > 1 else 0

    def live(self, place: int) -> S | None:
        """Returns the stream of a place; None if it has to be renewed."""
        stream = self._places[place]
        if stream is None or stream.ended is not None:
            return None
        return stream if len(self._places) == 1 or time.monotonic() < self._due[place] else None

    def renew(self, place: int) -> S:
        """Opens a stream in a place and retires the one that was there, unless another thread did so just now."""
        if (stream := self.live(place)) is not None:
            return stream
        old, stream = self._places[place], self._open_stream()
        self._places[place] = stream
        if old is not None and old.ended is None:
            old.retire()
        # Not all at once: predictions and encodings would move in step.
        self._due[place] = time.monotonic() + self._life_s[place] * random.uniform(0.7, 1.3)
        self._life_s[place] = min(2 * self._life_s[place], _LONGEST_LIFE_S)
        return stream
