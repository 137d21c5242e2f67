"""What the RPC edge counts.

A request is one unary call, one Generate call, or one request of a bidirectional stream: what a caller waits for.
"""

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class CallMetrics:
    """The families of the RPC edge."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "hiddenstate_requests", "Requests ended, by method and status.", ("method", "code"), registry=registry
        )
        self._seconds = Histogram(
            "hiddenstate_request_duration_seconds",
            "From a request's arrival to its last reply.",
            ("method",),
            buckets=SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "hiddenstate_requests_in_flight", "Requests that are being worked on.", ("method",), registry=registry
        )
        self._streams = Gauge(
            "hiddenstate_streams_open", "Bidirectional streams that are open.", ("method",), registry=registry
        )
        self.of_method = lru_cache(maxsize=None)(self._of_method)

    def _of_method(self, method: str, is_stream: bool) -> "MethodMetrics":
        streams = self._streams.labels(method) if is_stream else None
        return MethodMetrics(
            method, self._requests, self._seconds.labels(method), self._in_flight.labels(method), streams
        )


class MethodMetrics:
    """The series of one method."""

    def __init__(
        self, method: str, requests: Counter, seconds: Histogram, in_flight: Gauge, streams: Gauge | None
    ) -> None:
        self.method = method
        self.in_flight = in_flight
        self.streams = streams
        self._seconds = seconds
        self._with_code = lru_cache(maxsize=None)(lambda code: requests.labels(method, code))
        self._with_code("OK")  # begins at 0, so that rates have a start

    def done(self, code: str, seconds: float) -> None:
        """Counts one request that ended; `code` is the name of a status code."""
        self._with_code(code).inc()
        self._seconds.observe(seconds)
