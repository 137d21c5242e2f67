"""What the server tells Prometheus. Every method may be called from any thread."""

import platform
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version as release
from typing import Literal, Protocol, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hiddenstate_server.call_metrics import SECONDS, CallMetrics
from hiddenstate_server.model_metrics import ModelMetrics
from hiddenstate_server.sequence_metrics import SequenceMetrics

# Else each series has another beside it, with the time when it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]

BatchStage = Literal["recurrent", "head", "encoder", "tensors"]
DropReason = Literal["cancelled", "deadline", "overloaded", "failed"]

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
        self.registry = registry = CollectorRegistry()
        self.calls = CallMetrics(registry)
        self.models = ModelMetrics(registry)
        self.sequences = SequenceMetrics(registry)

        def histogram(name: str, help: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"hiddenstate_{name}", help, labels, buckets=buckets, registry=registry)

        def counter(name: str, help: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"hiddenstate_{name}", help, labels, registry=registry)

        self._stages = histogram(
            "stage_duration_seconds", "Of one request: in tokenize, in the queue, in compute.", _STAGE, SECONDS
        )
        self._computed = counter("tokens_computed", "Tokens run through recurrent layers.", _MODEL)
        self._reused = counter("tokens_reused", "Tokens whose state was already known.", _MODEL)
        self._dropped = counter("requests_dropped", "Requests without an answer, by reason.", (*_MODEL, "reason"))
        self._batch_seconds = histogram("batch_duration_seconds", "Of one model run, by graph.", _STAGE, SECONDS)
        self._batch_rows = histogram("batch_size_rows", "Contexts or sentences in one model run.", _STAGE, _ROWS)
        self._batch_padding = histogram("batch_padding_ratio", "Share of padding in one model run.", _STAGE, _SHARES)
        self._batch_tokens = counter("batch_tokens", "Tokens in model runs, without padding.", _STAGE)
        self._padded_tokens = counter("batch_padded_tokens", "Tokens in model runs, with padding.", _STAGE)
        self._batches = (
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
        build.info({"version": release("hiddenstate"), "python": platform.python_version()})
        ProcessCollector(registry=registry)
        self._watched = _Watched()
        registry.register(self._watched)
        # labels() costs more than counting, so each series is looked up once.
        self._of_model = lru_cache(maxsize=None)(self._model_series)
        self._of_batch = lru_cache(maxsize=None)(self._batch_series)

    def batch_run(
        self, *, model: str, version: str, stage: BatchStage, rows: int, tokens: int, padded_tokens: int, seconds: float
    ) -> None:
        """Counts one model run; `padded_tokens` are the useful `tokens` and the padding together."""
        batch_seconds, batch_rows, padding, useful, padded = self._of_batch(model, version, stage)
        batch_seconds.observe(seconds)
        batch_rows.observe(rows)
        padding.observe(1 - tokens / padded_tokens if padded_tokens else 0.0)
        useful.inc(tokens)
        padded.inc(padded_tokens)

    def request_done(
        self, *, model: str, version: str, queue_s: float, compute_s: float, tokens_computed: int, tokens_reused: int
    ) -> None:
        """Counts one request that a model has answered."""
        _, queue, compute, computed, reused = self._of_model(model, version)
        queue.observe(queue_s)
        compute.observe(compute_s)
        computed.inc(tokens_computed)
        reused.inc(tokens_reused)

    def tokenized(self, *, model: str, version: str, seconds: float) -> None:
        """Counts the time in which one request's text became tokens."""
        self._of_model(model, version)[0].observe(seconds)

    def dropped(self, *, model: str, version: str, reason: DropReason, count: int = 1) -> None:
        """Counts requests that end without an answer."""
        self._dropped.labels(model, version, reason).inc(count)

    def watch_scheduler(self, *, model: str, version: str, scheduler: WatchedScheduler) -> None:
        """Reads a scheduler at every scrape from now on."""
        self._watched.schedulers[model, version] = scheduler

    def watch_cache(self, cache: WatchedCache) -> None:
        """Reads a cache at every scrape from now on; several are summed."""
        self._watched.caches.append(cache)

    def model_loaded(self, *, model: str, version: str, kind: str, provider: str, architecture: str) -> None:
        """Names a model that is served. Its series begin at 0, so that rates have a start."""
        before, now = self._info.get((model, version)), (model, version, kind, provider, architecture)
        if before and before != now:
            self._models.remove(*before)
        self._info[model, version] = now
        self._models.labels(*now).set(1)
        self._of_model(model, version)

    def model_unloaded(self, model: str, version: str) -> None:
        """Ends all series of a model that is served no longer: those who publish often must not fill the memory."""
        for family in (self._computed, self._reused):
            family.remove(model, version)
        for stage in ("tokenize", "queue", "compute"):
            self._stages.remove(model, version, stage)
        for reason in get_args(DropReason):
            self._dropped.remove(model, version, reason)
        for stage in get_args(BatchStage):
            for batches in self._batches:
                batches.remove(model, version, stage)
        self._models.remove(*self._info.pop((model, version)))
        self._watched.schedulers.pop((model, version), None)
        self._of_model.cache_clear()
        self._of_batch.cache_clear()

    def _model_series(self, *model: str) -> tuple[Histogram, Histogram, Histogram, Counter, Counter]:
        tokenize, queue, compute = (self._stages.labels(*model, stage) for stage in ("tokenize", "queue", "compute"))
        return tokenize, queue, compute, self._computed.labels(*model), self._reused.labels(*model)

    def _batch_series(self, *stage: str) -> tuple[Histogram, Histogram, Histogram, Counter, Counter]:
        return (
            self._batch_seconds.labels(*stage),
            self._batch_rows.labels(*stage),
            self._batch_padding.labels(*stage),
            self._batch_tokens.labels(*stage),
            self._padded_tokens.labels(*stage),
        )


class _Watched(Collector):
    """Asks schedulers and caches when Prometheus asks, which costs requests nothing."""

    def __init__(self) -> None:
        self.schedulers: dict[tuple[str, str], WatchedScheduler] = {}
        self.caches: list[WatchedCache] = []

    def collect(self) -> Iterator[Metric]:
        requests = GaugeMetricFamily("hiddenstate_queue_requests", "Requests that wait for the model.", labels=_MODEL)
        tokens = GaugeMetricFamily("hiddenstate_queue_tokens", "Tokens that wait for the model.", labels=_MODEL)
        for model, scheduler in self.schedulers.items():
            requests.add_metric(model, scheduler.waiting_requests)
            tokens.add_metric(model, scheduler.waiting_tokens)
        yield from (requests, tokens)
        caches = self.caches
        yield GaugeMetricFamily("hiddenstate_cache_entries", "States cached.", sum(c.entries for c in caches))
        yield GaugeMetricFamily("hiddenstate_cache_bytes", "Memory of cached states.", sum(c.bytes for c in caches))
        yield CounterMetricFamily("hiddenstate_cache_hits", "Lookups that found one.", sum(c.hits for c in caches))
        yield CounterMetricFamily("hiddenstate_cache_misses", "Lookups that did not.", sum(c.misses for c in caches))
        yield CounterMetricFamily("hiddenstate_cache_evictions", "States let go.", sum(c.evictions for c in caches))
