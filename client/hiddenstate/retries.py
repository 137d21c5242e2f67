"""What follows where a request of a stream failed: the same as for a call of its own."""

import random
from collections.abc import Collection

import grpc

from hiddenstate.connection import RETRY_BACKOFF_S, RETRY_MOST_ATTEMPTS
from hiddenstate.errors import CallCancelledError, HiddenstateError, MessageTooLargeError, UnavailableError
from hiddenstate.streaming import StreamEndedError


class Retries:
    """Counts the failures of one request."""

    def __init__(self, codes: Collection[grpc.StatusCode]) -> None:
        """Begins to count.

        Args:
            codes: What another attempt may mend.
        """
        self._codes = codes
        self._left = RETRY_MOST_ATTEMPTS - 1
        self._backoff_s = RETRY_BACKOFF_S
        self._was_replayed = False

    def pause(self, failure: HiddenstateError | StreamEndedError, left_s: float) -> float | None:
        """Returns the seconds to wait before the request is sent again; None leaves it to a call of its own.

        A stream that had worked and broke is replaced at once, for one replay: a request that breaks whoever computes
        it should not go round for ever. Where no server is found, or it says that it is busy, gRPC's own rules for
        single calls hold.

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
            failure = failure.error
        if isinstance(failure, MessageTooLargeError):  # for a stream; a call of its own may carry it
            return None
        return self._back_off(failure, left_s)

    def _back_off(self, error: HiddenstateError, left_s: float) -> float:
        pause_s = self._backoff_s * random.uniform(0.8, 1.2)
        if error.code not in self._codes or not self._left or pause_s >= left_s:
            raise error
        self._left -= 1
        self._backoff_s *= 2
        return pause_s
