"""Counters and histograms that one thread writes, so that counting needs no locks: a tenth of prometheus_client's cost.

They are read by the thread that answers Prometheus, which may see a count a request earlier than the next.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tally:
    """A number that goes up, or up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Distribution:
    """A histogram's series."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)  # of each bucket alone; the last is above all bounds
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Returns (bound, count of values up to it) as Prometheus has them."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


S = TypeVar("S")


class Family(Collector, Generic[S]):
    """Series of one name, by their labels. `labels` returns a series, made when first asked for."""

    def __init__(
        self,
        registry: CollectorRegistry,
        new_metric: Callable[[], Metric],
        new_series: Callable[[], S],
        add: Callable[[Metric, tuple[str, ...], S], None],
    ) -> None:
        self._new_metric = new_metric
        self._new_series = new_series
        self._add = add
        self._series: dict[tuple[str, ...], S] = {}
        registry.register(self)

    def labels(self, *values: str) -> S:
        """Returns the series with these label values."""
        if values not in self._series:
            self._series[values] = self._new_series()
        return self._series[values]

    def forget(self, *first: str) -> None:
        """Forgets all series whose label values begin with these."""
        for values in list(self._series):
            if values[: len(first)] == first:
                self._series.pop(values, None)

    def collect(self) -> Iterator[Metric]:
        """Yields the family as Prometheus knows it."""
        metric = self._new_metric()
        for values, series in list(self._series.items()):
            self._add(metric, values, series)
        yield metric


def counters(registry: CollectorRegistry, name: str, help: str, labels: Sequence[str]) -> Family[Tally]:
    """Makes a family of counters."""

    def add(metric: Metric, values: tuple[str, ...], tally: Tally) -> None:
        assert isinstance(metric, CounterMetricFamily)
        metric.add_metric(values, tally.value)

    return Family(registry, lambda: CounterMetricFamily(name, help, labels=labels), Tally, add)


def gauges(registry: CollectorRegistry, name: str, help: str, labels: Sequence[str]) -> Family[Tally]:
    """Makes a family of gauges."""

    def add(metric: Metric, values: tuple[str, ...], tally: Tally) -> None:
        assert isinstance(metric, GaugeMetricFamily)
        metric.add_metric(values, tally.value)

    return Family(registry, lambda: GaugeMetricFamily(name, help, labels=labels), Tally, add)


def histograms(
    registry: CollectorRegistry, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]
) -> Family[Distribution]:
    """Makes a family of histograms; `bounds` are the upper bounds of its buckets, without infinity."""

    def add(metric: Metric, values: tuple[str, ...], distribution: Distribution) -> None:
        assert isinstance(metric, HistogramMetricFamily)
        metric.add_metric(values, buckets=distribution.buckets(), sum_value=distribution.sum)

    return Family(registry, lambda: HistogramMetricFamily(name, help, labels=labels), lambda: Distribution(bounds), add)
