"""What Prometheus is told of models that come and go. Every method may be called from any thread."""

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FailureReason = Literal["damaged", "unreadable", "memory", "disk_full", "failed"]

_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_MODEL = ("model", "version")


class ModelMetrics:
    """The metrics of a model repository."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._loaded = Gauge(
            "hiddenstate_models_loaded",
            "Versions in memory, those included that still finish their work.",
            registry=registry,
        )
        self._bytes = Gauge(
            "hiddenstate_model_bytes", "Size of the files of a version that is served.", _MODEL, registry=registry
        )
        self._seconds = Histogram(
            "hiddenstate_model_load_duration_seconds",
            "From finding a version to being able to serve it.",
            ("model",),
            buckets=_LOAD_SECONDS,
            registry=registry,
        )
        self._failures = Counter(
            "hiddenstate_model_load_failures", "Versions that were refused.", ("model", "reason"), registry=registry
        )

    def loaded(self, model: str, version: str, *, seconds: float) -> None:
        """Counts a version that was loaded."""
        self._loaded.inc()
        self._seconds.labels(model).observe(seconds)

    def closed(self) -> None:
        """Counts a version that is in memory no longer."""
        self._loaded.dec()

    def failed(self, model: str, reason: FailureReason) -> None:
        """Counts a version that could not be loaded."""
        self._failures.labels(model, reason).inc()

    def served(self, model: str, version: str, size: int) -> None:
        """Tells the size of a version from now on."""
        self._bytes.labels(model, version).set(size)

    def forget(self, model: str, version: str) -> None:
        """Drops the series of a version that is served no longer."""
        self._bytes.remove(model, version)
