"""What the RPC edge counts.

A request is what a caller waits for: one unary call, one Generate call, or one request of a bidirectional stream.
A stream is counted as such beside its requests.
"""

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class CallMetrics:
    """The families of the RPC edge. `of_method` gives the series of a method, made once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help: str) -> Counter:
            return Counter(f"hiddenstate_{name}", help, ("method", "code"), registry=registry)

        def gauge(name: str, help: str) -> Gauge:
            return Gauge(f"hiddenstate_{name}", help, ("method",), registry=registry)

        self._requests = counter("requests", "Requests ended, by method and status.")
        self._seconds = Histogram(
            "hiddenstate_request_duration_seconds",
            "From a request's arrival to its last reply.",
            ("method",),
            buckets=SECONDS,
            registry=registry,
        )
        self._in_flight = gauge("requests_in_flight", "Requests that are being worked on.")
        self._streams = counter("streams", "Bidirectional streams ended, by method and status.")
        self._open = gauge("streams_open", "Bidirectional streams that are open.")
        self.of_request = lru_cache(maxsize=None)(self._of_request)
        self.of_stream = lru_cache(maxsize=None)(self._of_stream)

    def _of_request(self, method: str) -> "MethodMetrics":
        return MethodMetrics(method, self._requests, self._in_flight, self._seconds)

    def _of_stream(self, method: str) -> "MethodMetrics":
        return MethodMetrics(method, self._streams, self._open, None)


class MethodMetrics:
    """Counts the requests, or the streams, of one method."""

    def __init__(self, method: str, ended: Counter, running: Gauge, seconds: Histogram | None) -> None:
        self.method = method
        self.begin = running.labels(method).inc
        self._end = running.labels(method).dec
        self._seconds = seconds.labels(method) if seconds else None
        # labels() costs more than counting, so each series is looked up once.
        self._with_code = lru_cache(maxsize=None)(lambda code: ended.labels(method, code))
        self._with_code("OK")  # begins at 0, so that rates have a start

    def end(self, code: str, seconds: float) -> None:
        """Counts one that has begun and now ends; `code` is the name of a status code."""
        self._end()
        self._with_code(code).inc()
        if self._seconds:
            self._seconds.observe(seconds)
