"""How long a stream's messages lie unread, told by the times at which their caller sent them.

gRPC does not say when a message came. Under overload it may have lain for seconds, and what it asks for would be
computed for callers who have left: all that the server does is then done in vain, and it never gets out of that again.

The two clocks need not agree. As congestion control by delay does it (LEDBAT, RFC 6817, section 2), the least that was
seen lately between sending and reading is taken to be the way, and what a message took longer to be the queue.
"""

import math

# The least is that of the last one to two of these: clocks drift apart by some milliseconds in it.
_WINDOW_S = 60.0
# What seems to have lain for longer was not: the caller's clock was set, or stood still while its machine slept.
_MOST_S = 20.0


class Transit:
    """The messages of one stream."""

    __slots__ = ("_before", "_least", "_since")

    def __init__(self) -> None:
        self._since = -math.inf  # when the window began, of time.monotonic()
        self._least = math.inf  # between sending and reading, in this window, in seconds
        self._before = math.inf  # in the one before

    def waited_s(self, sent_at_us: float, now: float) -> float:
        """Returns for how long a message lay unread that is read at `now`, of time.monotonic(), in seconds.

        `sent_at_us` is of the caller's clock, which runs evenly.
        """
        took = now - sent_at_us / 1e6
        passed = now - self._since
        if passed >= _WINDOW_S:
            self._before = self._least if passed < 2 * _WINDOW_S else math.inf
            self._least, self._since = took, now
        self._least = min(self._least, took)
        waited = took - min(self._least, self._before)
        if waited > _MOST_S:
            self._least, self._before, self._since = took, math.inf, now
            return 0.0
        return waited
