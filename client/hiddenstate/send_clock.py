"""When messages are sent, by a clock that only their differences can be told from."""

import secrets
import sys
import time

# The clock must run on while the machine sleeps: else what is sent afterwards looks as if it had lain unread for so
# long. Where the monotonic clock of Python stops, there is another one.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", None) if sys.platform == "linux" else getattr(time, "CLOCK_MONOTONIC", None)


class SendClock:
    """The clock of one stream. It begins anywhere: for how long this machine has run is nobody's business."""

    def __init__(self) -> None:
        self._begin_us = secrets.randbits(40) + 1  # 12 days

    def now_us(self) -> int:
        """Returns the time, in microseconds, above 0."""
        return self._begin_us + _now_ns() // 1000


def _now_ns() -> int:
    return time.monotonic_ns() if _CLOCK is None else time.clock_gettime_ns(_CLOCK)
