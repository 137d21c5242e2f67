"""Where a thread waits for its reply."""

import threading
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiter(Generic[T]):
    """Holds one reply. What `concurrent.futures.Future` does beyond that costs more than all the rest of a call."""

    __slots__ = ("_answered", "_error", "_left", "_result")

    def __init__(self) -> None:
        self._answered = threading.Lock()
        self._answered.acquire()
        self._left = False
        self._result: T | None = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Tells whether nobody waits any more."""
        return self._left or not self._answered.locked()

    def set_result(self, result: T) -> None:
        """Hands over a reply."""
        self._result = result
        self._answered.release()

    def set_exception(self, exception: BaseException) -> None:
        """Hands over an error, unless there is an answer."""
        if not self.done():
            self._error = exception
            with suppress(RuntimeError):  # another thread was faster
                self._answered.release()

    def leave(self) -> None:
        """Says that nobody waits any more."""
        self._left = True

    def wait(self, timeout_s: float | None) -> bool:
        """Waits for a reply; tells whether there is one. None waits for ever."""
        timeout_s = -1 if timeout_s is None else min(max(timeout_s, 0), threading.TIMEOUT_MAX)
        return self._answered.acquire(timeout=timeout_s)

    def result(self) -> T:
        """Returns the reply that came.

        Raises:
            BaseException: the one that was handed over.
        """
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set_result was called
