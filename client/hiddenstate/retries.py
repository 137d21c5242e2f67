"""What follows where a call failed: when it is made again, and when it is not."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import grpc

from hiddenstate.budget import RetryBudget
from hiddenstate.connection import RETRY_BACKOFF_S, RETRY_MOST_ATTEMPTS, Connection
from hiddenstate.errors import (
    CallCancelledError,
    HiddenstateError,
    MessageTooLargeError,
    OverloadedError,
    UnavailableError,
)
from hiddenstate.streaming import StreamEndedError

T = TypeVar("T")

# What another attempt may mend, also where the server does not say when. Where it has too much to do it always says.
RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE})


class Retries:
    """Counts the failures of one request."""

    def __init__(self, codes: Collection[grpc.StatusCode], budget: RetryBudget) -> None:
        """Begins to count.

        Args:
            codes: What another attempt may mend, also where the server does not say when.
            budget: What the client as a whole may spend on further attempts.
        """
        self._codes = codes
        self._budget = budget
        self._left = RETRY_MOST_ATTEMPTS - 1
        self._backoff_s = RETRY_BACKOFF_S
        self._was_replayed = False

    def pause(self, failure: HiddenstateError | StreamEndedError, left_s: float) -> float | None:
        """Returns the seconds to wait before the request is sent again; None leaves it to a call of its own.

        A stream that had worked and broke is replaced at once, for one replay: a request that breaks whoever computes
        it should not go round for ever. Where no server is found, or it says that it is busy, gRPC's own rules for
        single calls hold; a server that says when it may have time is asked again then.

        Args:
            failure: Why there is no reply.
            left_s: Seconds until the request's deadline.

        Raises:
            HiddenstateError: another attempt would not help, or would come too late.
        """
        if isinstance(failure, StreamEndedError):
            if isinstance(failure.error, CallCancelledError):
                raise failure.error
            if not isinstance(failure.error, UnavailableError):
                return None
            if failure.worked and not self._was_replayed:
                self._was_replayed = True
                return 0.0
            if failure.is_unclear:  # perhaps the server has no such streams
                return None
            failure = failure.error
        if isinstance(failure, MessageTooLargeError):  # for a stream; a call of its own may carry it
            return None
        return self.back_off(failure, left_s)

    def back_off(self, error: HiddenstateError, left_s: float) -> float:
        """Returns the seconds to wait before a call of its own is made again.

        Raises:
            HiddenstateError: the one given; another attempt would not help, or would come too late.
        """
        pause_s = self._backoff_s * random.uniform(0.8, 1.2)
        if error.retry_after_s is not None:
            # Never before the server's time, and not all at that time.
            pause_s = max(pause_s, error.retry_after_s * random.uniform(1.0, 1.2))
        may_help = error.code in self._codes or error.retry_after_s is not None
        if not (may_help and self._left and pause_s < left_s and self._budget.spend(error.code)):
            raise error
        self._left -= 1
        self._backoff_s *= 2
        return pause_s


def patiently(connection: Connection, call: Callable[[float | None], T], timeout_s: float | None) -> T:
    """Makes a call of its own, again where the server asks to come later. What UNAVAILABLE is, gRPC retries itself.

    Args:
        connection: Where it goes.
        call: Makes the call, with a timeout in seconds.
        timeout_s: The most that all attempts may take together.

    Raises:
        HiddenstateError: the last attempt failed.
    """
    clock, retries = Clock(timeout_s), None
    while True:
        try:
            with connection.calling():
                result = call(clock.left())
            connection.budget.earn(1)
            return result
        except HiddenstateError as error:
            retries = retries or Retries((), connection.budget)
            pause_s = retries.back_off(in_words(error, connection), clock.left_s())
        time.sleep(pause_s)


async def patiently_async(
    connection: Connection, call: Callable[[float | None], Awaitable[T]], timeout_s: float | None
) -> T:
    """Does the same for tasks."""
    clock, retries = Clock(timeout_s), None
    while True:
        try:
            with connection.calling():
                result = await call(clock.left())
            connection.budget.earn(1)
            return result
        except HiddenstateError as error:
            retries = retries or Retries((), connection.budget)
            pause_s = retries.back_off(in_words(error, connection), clock.left_s())
        await asyncio.sleep(pause_s)


def in_words(error: HiddenstateError, connection: Connection) -> HiddenstateError:
    """Says what it means that a call was cancelled where nobody here did."""
    if error.code is not grpc.StatusCode.CANCELLED or connection.closed:
        return error
    return OverloadedError(
        f"the server at {connection.address} turned the call away without looking at it, since too many came at once: "
        "try again later, or let calls share one client",
        retry_after_s=RETRY_BACKOFF_S,
    )


class Clock:
    """What is left of the time that a call may take."""

    def __init__(self, timeout_s: float | None) -> None:
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def left(self) -> float | None:
        """Returns the seconds that are left; None sets no limit."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def left_s(self) -> float:
        """Returns the same as a number, which may be infinite."""
        left = self.left()
        return float("inf") if left is None else left
