"""Turns Ctrl-C (SIGINT) and SIGTERM into a request to stop at the next safe point."""

import signal
from types import FrameType, TracebackType
from typing import Self


class Interruption:
    """A context in which the first signal only sets `requested`; a second one raises KeyboardInterrupt.

    Works in the main thread only, as signal handlers do.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
