"""What SIGTERM and SIGINT do: before the server serves they end the process, then they end it gently, and the second
time at once.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


def end_until_serving(at_once: Callable[[], None] = lambda: None) -> None:
    """Lets a signal end the process, after `at_once`, from now until `stop_signal` takes over: nothing runs yet."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        _log.info("%s: ended before anything was served", signal.Signals(number).name)
        at_once()
        os._exit(0)  # models load on another thread, for which a regular exit would wait

    for number in SIGNALS:
        signal.signal(number, on_signal)


def stop_signal(at_once: Callable[[], None] = lambda: None) -> asyncio.Event:
    """Returns an event of the running loop that the first signal sets. The second ends the process, after `at_once`."""
    told = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if told.is_set():
            _log.warning("%s again: ending at once", number.name)
            at_once()
            os._exit(128 + number)
        _log.info("%s: ending when the running calls have finished", number.name)
        told.set()

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return told
