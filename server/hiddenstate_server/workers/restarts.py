"""When a worker that ended is started again."""

from dataclasses import dataclass

_MOST_UNSERVED = 5  # in a row
_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 10.0
_MOST_DOUBLINGS = 10
_LONG_LIFE_S = 10.0


@dataclass(slots=True)
class Restarts:
    """The history of one worker's place."""

    unserved: int = 0  # lives in a row that ended before the worker served
    short: int = 0  # lives in a row that were short, whether it served or not

    def delay_s(self, served_s: float | None) -> float | None:
        """Takes how long a life served (None: it never did) to the seconds until the next; None gives up."""
        self.unserved = 0 if served_s is not None else self.unserved + 1
        if self.unserved == _MOST_UNSERVED:
            return None
        if served_s is not None and served_s >= _LONG_LIFE_S:
            self.short = 0
            return 0.0
        # What ended it may end it again, and starting costs the processor time that the others serve with.
        self.short = min(self.short + 1, _MOST_DOUBLINGS)
        return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * float(2 ** (self.short - 1)))
