"""Pages of several workers as one."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from hiddenstate_server.workers.pages import Page, lasting, merged, metrics_of, of_process, page_of


class Worker:
    """What one worker counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("calls", "Calls.", ["code"], registry=self.registry)
        self.seconds = Histogram("seconds", "Of a call.", buckets=(0.1, 1.0), registry=self.registry)
        self.running = Gauge("running", "Calls that run.", registry=self.registry)
        self.model = Gauge("model_info", "Models.", ["model"], registry=self.registry)
        self.limit = Gauge("batch_limit_rows", "Rows.", ["model"], registry=self.registry)
        self.model.labels("m").set(1)
        self.limit.labels("m").set(8)
        Info("build", "The release.", registry=self.registry).info({"version": "1"})
        ProcessCollector(registry=self.registry)

    def page(self) -> Page:
        """Returns its page."""
        return page_of(self.registry.collect())


def value(page: Page, name: str, **labels: str) -> float | None:
    """Returns a sample."""
    registry = CollectorRegistry()
    registry.register(_Page(page))
    return registry.get_sample_value(name, labels)


class _Page(Collector):
    def __init__(self, page: Page) -> None:
        self._page = page

    def collect(self) -> Iterable[Metric]:
        return metrics_of(self._page)


def two_workers() -> tuple[Worker, Worker]:
    """One that has answered twice in 0.05 s, and one that has answered in 0.5 s, failed in 5 s, and works."""
    one, other = Worker(), Worker()
    for worker, code, seconds in ((one, "OK", 0.05), (one, "OK", 0.05), (other, "OK", 0.5), (other, "INTERNAL", 5.0)):
        worker.calls.labels(code).inc()
        worker.seconds.observe(seconds)
    other.running.inc()
    return one, other


def test_a_page_of_one_worker_stays_as_it_is() -> None:
    one, _ = two_workers()
    registry = CollectorRegistry()
    registry.register(_Page([family for family in merged([one.page()]) if not family.name.startswith("process_")]))
    lines = generate_latest(one.registry).decode().splitlines()
    assert generate_latest(registry).decode().splitlines() == [line for line in lines if "process_" not in line]


def test_counters_histograms_and_gauges_are_summed_by_their_labels() -> None:
    page = merged(worker.page() for worker in two_workers())
    assert value(page, "calls_total", code="OK") == 3
    assert value(page, "calls_total", code="INTERNAL") == 1
    assert [value(page, "seconds_bucket", le=le) for le in ("0.1", "1.0", "+Inf")] == [2, 3, 4]
    assert value(page, "seconds_sum") == 5.6
    assert value(page, "seconds_count") == 4
    assert value(page, "running") == 1


def test_what_is_always_1_stays_1_and_the_largest_batch_is_that_of_one_worker() -> None:
    page = merged(worker.page() for worker in two_workers())
    assert value(page, "model_info", model="m") == 1
    assert value(page, "batch_limit_rows", model="m") == 8
    assert value(page, "build_info", version="1") == 1


def test_what_is_told_of_a_process_is_labelled_with_it() -> None:
    one, other = two_workers()
    page = merged([of_process(one.page(), "1"), of_process(other.page(), "2")])
    assert value(page, "process_resident_memory_bytes") is None
    for worker in ("1", "2"):
        assert value(page, "process_resident_memory_bytes", worker=worker)
        assert value(page, "calls_total", worker=worker, code="OK") is None


def test_of_a_worker_that_is_gone_only_counts_last() -> None:
    _, other = two_workers()
    assert {family.name for family in lasting(other.page())} == {"calls", "seconds"}
