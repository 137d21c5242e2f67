"""Counters and histograms of our own, as Prometheus would have them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hiddenstate_server.call_metrics import SECONDS
from hiddenstate_server.metrics import _ROWS, _SHARES
from hiddenstate_server.tallies import Distribution, counters, gauges, histograms

LABELS = ("model", "code")
SERIES = st.tuples(st.sampled_from(["a", 'quoted "b"', "c\\d\n"]), st.sampled_from(["OK", "NOT_FOUND"]))
AMOUNTS = st.integers(0, 2**40).map(float) | st.floats(0, 1e9)


def exposed(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


@given(st.lists(st.tuples(SERIES, AMOUNTS)))
def test_counters_are_exposed_as_prometheus_exposes_its_own(observed: list[tuple[tuple[str, str], float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = counters(ours, "requests", "What it counts.", LABELS)
    counter = Counter("requests", "What it counts.", LABELS, registry=theirs)
    for labels, amount in observed:
        family.labels(*labels).value += amount
        counter.labels(*labels).inc(amount)
    assert exposed(ours) == exposed(theirs)


@given(st.lists(st.tuples(SERIES, st.floats(-1e6, 1e6))))
def test_gauges_are_exposed_as_prometheus_exposes_its_own(observed: list[tuple[tuple[str, str], float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = gauges(ours, "running", "What runs.", LABELS)
    gauge = Gauge("running", "What runs.", LABELS, registry=theirs)
    for labels, amount in observed:
        family.labels(*labels).value += amount
        gauge.labels(*labels).inc(amount)
    assert exposed(ours) == exposed(theirs)


@pytest.mark.parametrize("bounds", [SECONDS, _ROWS, _SHARES, (1e-9, 1, 10**7, 1e17)])
def test_histograms_are_exposed_as_prometheus_exposes_its_own(bounds: tuple[float, ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = histograms(ours, "duration_seconds", "How long.", LABELS, bounds)
    histogram = Histogram("duration_seconds", "How long.", LABELS, registry=theirs, buckets=bounds)
    draw = random.Random(0)
    values = [*bounds, *(draw.expovariate(1 / bounds[len(bounds) // 2]) for _ in range(500)), 0.0, 1e20]
    for labels in (("a", "OK"), ("b", "OK")):
        family.labels(*labels)
        histogram.labels(*labels)
    for value in values:
        family.labels("a", "OK").observe(value)
        histogram.labels("a", "OK").observe(value)
    assert exposed(ours) == exposed(theirs)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6, unique=True), st.lists(st.floats(-20, 20)))
def test_every_value_is_in_each_bucket_up_to_whose_bound_it_goes(bounds: list[float], values: list[float]) -> None:
    distribution = Distribution(sorted(bounds))
    for value in values:
        distribution.observe(value)
    wanted = [sum(value <= bound for value in values) for bound in sorted(bounds)]
    assert [count for _, count in distribution.buckets()] == [*wanted, len(values)]


def test_a_series_that_is_removed_is_exposed_no_more_and_begins_anew() -> None:
    registry = CollectorRegistry()
    family = counters(registry, "requests", "What it counts.", LABELS)
    family.labels("a", "OK").value = 3
    family.forget("a", "OK")
    family.forget("never", "there")
    assert 'model="a"' not in exposed(registry)
    assert family.labels("a", "OK").value == 0
