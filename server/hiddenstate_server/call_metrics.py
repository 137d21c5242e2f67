"""What the RPC edge counts. All of it belongs to the event loop.

A request is what a caller waits for: one unary call, one Generate call, or one request of a bidirectional stream.
A stream is counted as such beside its requests.
"""

from functools import lru_cache

from prometheus_client import CollectorRegistry

from hiddenstate_server.errors import OverloadedError, RefusalReason, ShuttingDownError
from hiddenstate_server.tallies import Distribution, Family, Tally, counters, gauges, histograms

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class CallMetrics:
    """The families of the RPC edge. `of_method` gives the series of a method, made once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        code, method = ("method", "code"), ("method",)
        self._requests = counters(registry, "hiddenstate_requests", "Requests ended, by method and status.", code)
        self._seconds = histograms(
            registry,
            "hiddenstate_request_duration_seconds",
            "From a request's arrival to its last reply.",
            method,
            SECONDS,
        )
        self._in_flight = gauges(
            registry, "hiddenstate_requests_in_flight", "Requests that are being worked on.", method
        )
        self._streams = counters(
            registry, "hiddenstate_streams", "Bidirectional streams ended, by method and status.", code
        )
        self._refused = counters(
            registry,
            "hiddenstate_requests_refused",
            "Requests that were refused for want of room, and streams ended by a drain, by method and reason.",
            ("method", "reason"),
        )
        self.contexts = gauges(registry, "hiddenstate_stream_contexts", "Contexts that open streams hold.", ()).labels()
        self._open = gauges(registry, "hiddenstate_streams_open", "Bidirectional streams that are open.", method)
        self.unread = histograms(
            registry,
            "hiddenstate_stream_message_unread_seconds",
            "For how long messages lay unread, of streams whose callers say when they send (sent_at_us).",
            method,
            SECONDS,
        )
        self.of_request = lru_cache(maxsize=None)(self._of_request)
        self.of_stream = lru_cache(maxsize=None)(self._of_stream)

    def _of_request(self, method: str) -> "MethodMetrics":
        seconds = self._seconds.labels(method)
        return MethodMetrics(method, self._requests, self._in_flight.labels(method), self._refused, seconds)

    def _of_stream(self, method: str) -> "MethodMetrics":
        return MethodMetrics(method, self._streams, self._open.labels(method), self._refused, None)


class MethodMetrics:
    """Counts the requests, or the streams, of one method."""

    __slots__ = ("_ended", "_ok", "_refused", "_running", "_seconds", "method")

    def __init__(
        self,
        method: str,
        ended: Family[Tally],
        running: Tally,
        refused: Family[Tally],
        seconds: Distribution | None,
    ) -> None:
        self.method = method
        self._ended = ended
        self._running = running
        self._refused = refused
        self._seconds = seconds
        self._ok = ended.labels(method, "OK")  # begins at 0, so that rates have a start

    def begin(self) -> None:
        """Counts one that begins."""
        self._running.value += 1

    def end(self, code: str, seconds: float) -> None:
        """Counts one that has begun and now ends; `code` is the name of a status code."""
        self._running.value -= 1
        if code == "OK":
            self._ok.value += 1
        else:
            self._ended.labels(self.method, code).value += 1
        if self._seconds is not None:
            self._seconds.observe(seconds)

    def failed(self, error: Exception) -> None:
        """Counts an error if it is a refusal; it is answered all the same."""
        if isinstance(error, OverloadedError):
            self.refused(error.reason)
        elif isinstance(error, ShuttingDownError):
            self.refused("draining")

    def refused(self, reason: RefusalReason) -> None:
        """Counts a request that is refused."""
        self._refused.labels(self.method, reason).value += 1
