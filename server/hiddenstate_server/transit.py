"""How long a stream's messages lie unread, told by the times at which their caller sent them.

gRPC does not say when a message came. Under overload it may have lain for seconds, and what it asks for would be
computed for callers who have left: all that the server does is then done in vain, and it never gets out of that again.

The two clocks need not agree. As congestion control by delay does it (LEDBAT, RFC 6817, section 2), the least that was
seen lately between sending and reading is taken to be the way, and what a message took longer to be the queue.
"""

import math

# The least is that of the last one to two of these: clocks drift apart by milliseconds in it.
_WINDOW_S = 20.0
# What seems to have lain for longer did not: the caller's clock was set.
_MOST_S = 10.0
# Who waited for a message for so long found none that lay there: the event loop is never so late.
_WAITED_S = 1.0


class Transit:
    """The messages of one stream."""

    __slots__ = ("_before", "_least", "_since")

    def __init__(self) -> None:
        self._since = -math.inf  # when the window began, of time.monotonic()
        self._least = math.inf  # between sending and reading, in this window, in seconds
        self._before = math.inf  # in the one before

    def unread_s(self, sent_at_us: float, asked_at: float, now: float) -> float:
        """Returns for how long a message lay unread that is read at `now`, of time.monotonic(), in seconds.

        `sent_at_us` is of the caller's clock; `asked_at` is when the server began to wait for the message. A clock that
        stood still, as in a machine that was stopped, stood still while nothing came from there.
        """
        took = now - sent_at_us / 1e6
        passed = now - self._since
        if passed >= _WINDOW_S:
            self._before = self._least if passed < 2 * _WINDOW_S else math.inf
            self._least, self._since = took, now
        self._least = min(self._least, took)
        unread, waited = took - min(self._least, self._before), now - asked_at
        if unread > _MOST_S or (waited >= _WAITED_S and waited >= unread):
            self._least, self._before, self._since = took, math.inf, now
            return 0.0
        return unread
