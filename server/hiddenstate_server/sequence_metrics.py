"""What Prometheus is told of sequences whose state the server keeps."""

import weakref
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_MODEL = ("model", "version")


class WatchedSequences(Protocol):
    """What is read off a model's sequences at each scrape."""

    @property
    def live(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def started(self) -> int: ...
    @property
    def ended(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def evicted(self) -> int: ...


class SequenceMetrics(Collector):
    """Asks when Prometheus asks, which costs steps nothing. A model that is gone is no longer asked."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._watched: weakref.WeakValueDictionary[tuple[str, str], WatchedSequences] = weakref.WeakValueDictionary()
        registry.register(self)

    def watch(self, *, model: str, version: str, sequences: WatchedSequences) -> None:
        """Reads them at every scrape from now on, as long as they are used."""
        self._watched[model, version] = sequences

    def collect(self) -> Iterator[Metric]:
        """Yields all families."""
        live = GaugeMetricFamily("hiddenstate_sequences", "Sequences whose state is kept.", labels=_MODEL)
        size = GaugeMetricFamily("hiddenstate_sequence_bytes", "Memory of sequences' states.", labels=_MODEL)
        started = CounterMetricFamily("hiddenstate_sequences_started", "Sequences begun.", labels=_MODEL)
        gone = CounterMetricFamily(
            "hiddenstate_sequences_gone", "Sequences that are over, by reason.", labels=(*_MODEL, "reason")
        )
        for model, sequences in list(self._watched.items()):
            live.add_metric(model, sequences.live)
            size.add_metric(model, sequences.bytes)
            started.add_metric(model, sequences.started)
            gone.add_metric((*model, "ended"), sequences.ended)
            gone.add_metric((*model, "expired"), sequences.expired)
            gone.add_metric((*model, "evicted"), sequences.evicted)
        yield from (live, size, started, gone)
