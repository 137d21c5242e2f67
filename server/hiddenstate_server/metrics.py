"""What the server tells Prometheus. Its methods may be called from any thread."""

import asyncio
import platform
from collections.abc import Iterator
from importlib.metadata import version as release
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hiddenstate_server.call_metrics import SECONDS, CallMetrics
from hiddenstate_server.engine_build import engine
from hiddenstate_server.engine_metrics import BatchMetrics, RequestMetrics
from hiddenstate_server.model_metrics import ModelMetrics
from hiddenstate_server.queue_metrics import QueueMetrics
from hiddenstate_server.sequence_metrics import SequenceMetrics
from hiddenstate_server.tallies import Distribution, Family, Tally, counters, histograms

if TYPE_CHECKING:
    from hiddenstate_server.tracing import Tracing

# Else each series has another beside it, with the time when it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]

BatchStage = Literal["recurrent", "head", "encoder", "tensors"]
DropReason = Literal["cancelled", "deadline", "failed"]

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_MODEL = ("model", "version")
_STAGE = ("model", "version", "stage")


class WatchedScheduler(Protocol):
    """What is read off a scheduler at each scrape."""

    @property
    def waiting_requests(self) -> int: ...
    @property
    def waiting_tokens(self) -> int: ...


class WatchedCache(Protocol):
    """What is read off a prefix-state cache at each scrape."""

    @property
    def budget_bytes(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def evictions(self) -> int: ...


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.tracing: Tracing | None = None  # beside the metrics because it goes where they go
        self.registry = registry = CollectorRegistry()
        self.calls = CallMetrics(registry)
        self.models = ModelMetrics(registry)
        self.queues = QueueMetrics(registry)
        self.sequences = SequenceMetrics(registry)

        def histogram(name: str, help: str, bounds: tuple[float, ...]) -> Family[Distribution]:
            return histograms(registry, f"hiddenstate_{name}", help, _STAGE, bounds)

        def tally(name: str, help: str, labels: tuple[str, ...]) -> Family[Tally]:
            return counters(registry, f"hiddenstate_{name}", help, labels)

        def counter(name: str, help: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"hiddenstate_{name}", help, labels, registry=registry)

        self._stages = histogram(
            "stage_duration_seconds", "Of one request: in tokenize, in the queue, in compute.", SECONDS
        )
        self._computed = tally("tokens_computed", "Tokens run through recurrent layers.", _MODEL)
        self._reused = tally("tokens_reused", "Tokens whose state was already known.", _MODEL)
        self._dropped = counter(
            "requests_dropped",
            "Requests taken in and not computed, by reason: cancelled, deadline, failed.",
            (*_MODEL, "reason"),
        )
        self._batch_seconds = histogram("batch_duration_seconds", "Of one model run, by graph.", SECONDS)
        self._batch_rows = histogram("batch_size_rows", "Contexts or sentences in one model run.", _ROWS)
        self._batch_padding = histogram("batch_padding_ratio", "Share of padding in one model run.", _SHARES)
        self._batch_tokens = tally("batch_tokens", "Tokens in model runs, without padding.", _STAGE)
        self._padded_tokens = tally("batch_padded_tokens", "Tokens in model runs, with padding.", _STAGE)
        self._batches: tuple[Family[Any], ...] = (
            self._batch_seconds,
            self._batch_rows,
            self._batch_padding,
            self._batch_tokens,
            self._padded_tokens,
        )
        self._info: dict[tuple[str, str], tuple[str, ...]] = {}
        self._models = Gauge(
            "hiddenstate_model_info",
            "Models that are served; always 1.",
            (*_MODEL, "kind", "provider", "architecture"),
            registry=registry,
        )
        build = Info("hiddenstate_build", "The release that runs, and under what; always 1.", registry=registry)
        build.info({"version": release("hiddenstate"), "python": platform.python_version(), "engine": engine()})
        ProcessCollector(registry=registry)
        self._watched = _Watched()
        registry.register(self._watched)

    def of_batches(self, model: str, version: str, stage: BatchStage) -> BatchMetrics:
        """Returns what is counted of the runs of one of a model's graphs."""
        labels = (model, version, stage)
        return BatchMetrics(
            self._batch_seconds.labels(*labels),
            self._batch_rows.labels(*labels),
            self._batch_padding.labels(*labels),
            self._batch_tokens.labels(*labels),
            self._padded_tokens.labels(*labels),
        )

    def of_model(self, model: str, version: str) -> RequestMetrics:
        """Returns what a model counts of its requests."""
        labels = (model, version)
        tokenize, queue, compute = (self._stages.labels(*labels, stage) for stage in ("tokenize", "queue", "compute"))
        return RequestMetrics(tokenize, queue, compute, self._computed.labels(*labels), self._reused.labels(*labels))

    def dropped(self, *, model: str, version: str, reason: DropReason, count: int = 1) -> None:
        """Counts requests that end without an answer."""
        self._dropped.labels(model, version, reason).inc(count)

    def watch_scheduler(self, *, model: str, version: str, scheduler: WatchedScheduler) -> None:
        """Reads a scheduler at every scrape from now on."""
        self._watched.schedulers[model, version] = scheduler

    def watch_cache(self, cache: WatchedCache) -> None:
        """Reads a cache at every scrape from now on; several are summed."""
        self._watched.caches.append(cache)

    def watch_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Counts the tasks of an event loop at every scrape from now on."""
        self._watched.loop = loop

    def model_loaded(self, *, model: str, version: str, kind: str, provider: str, architecture: str) -> None:
        """Names a model that is served. Its series begin at 0, so that rates have a start."""
        before, now = self._info.get((model, version)), (model, version, kind, provider, architecture)
        if before and before != now:
            self._models.remove(*before)
        self._info[model, version] = now
        self._models.labels(*now).set(1)
        self.of_model(model, version)
        for reason in get_args(DropReason):
            self._dropped.labels(model, version, reason)

    def model_unloaded(self, model: str, version: str) -> None:
        """Ends all series of a model that is served no longer: those who publish often must not fill the memory."""
        families: tuple[Family[Any], ...] = (self._stages, self._computed, self._reused, *self._batches)
        for family in families:
            family.forget(model, version)
        self.queues.forget(model, version)
        for reason in get_args(DropReason):
            self._dropped.remove(model, version, reason)
        self._models.remove(*self._info.pop((model, version)))
        self._watched.schedulers.pop((model, version), None)


class _Watched(Collector):
    """Asks schedulers and caches when Prometheus asks, which costs requests nothing."""

    def __init__(self) -> None:
        self.schedulers: dict[tuple[str, str], WatchedScheduler] = {}
        self.caches: list[WatchedCache] = []
        self.loop: asyncio.AbstractEventLoop | None = None

    def collect(self) -> Iterator[Metric]:
        requests = GaugeMetricFamily("hiddenstate_queue_requests", "Requests that wait for the model.", labels=_MODEL)
        tokens = GaugeMetricFamily("hiddenstate_queue_tokens", "Tokens that wait for the model.", labels=_MODEL)
        for model, scheduler in self.schedulers.items():
            requests.add_metric(model, scheduler.waiting_requests)
            tokens.add_metric(model, scheduler.waiting_tokens)
        yield from (requests, tokens)
        yield GaugeMetricFamily(
            "hiddenstate_tasks",
            "Tasks of the event loop: calls, streams, and what the server does beside them.",
            len(asyncio.all_tasks(self.loop)) if self.loop else 0,
        )
        caches = self.caches
        yield GaugeMetricFamily("hiddenstate_cache_entries", "States cached.", sum(c.entries for c in caches))
        yield GaugeMetricFamily("hiddenstate_cache_bytes", "Memory of cached states.", sum(c.bytes for c in caches))
        yield GaugeMetricFamily(
            "hiddenstate_cache_limit_bytes", "Memory that states may take.", sum(c.budget_bytes for c in caches)
        )
        yield CounterMetricFamily("hiddenstate_cache_hits", "Lookups that found one.", sum(c.hits for c in caches))
        yield CounterMetricFamily("hiddenstate_cache_misses", "Lookups that did not.", sum(c.misses for c in caches))
        yield CounterMetricFamily("hiddenstate_cache_evictions", "States let go.", sum(c.evictions for c in caches))
