"""What the server counts, read as Prometheus reads it."""

import threading
from types import SimpleNamespace

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hiddenstate_server.errors import InvalidRequestError, OverloadedError, ShuttingDownError
from hiddenstate_server.metrics import Metrics

MODEL = {"model": "m", "version": "1"}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Returns a sample."""
    return metrics.registry.get_sample_value(f"hiddenstate_{name}", labels)


def test_names_have_the_prefix_and_units_and_every_family_is_described() -> None:
    metrics = Metrics()
    metrics.of_batches(**MODEL, stage="head").run(rows=1, tokens=1, padded_tokens=1, seconds=0.1)
    metrics.calls.of_request("Predict").end("OK", 0.1)
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        assert not family.name.endswith("_created")
        assert family.name.startswith(("hiddenstate_", "process_"))
        assert family.documentation
        assert family.type != "histogram" or family.name.endswith(("_seconds", "_rows", "_ratio"))


def test_a_batch_is_counted_with_its_padding() -> None:
    metrics = Metrics()
    metrics.of_batches(**MODEL, stage="encoder").run(rows=4, tokens=30, padded_tokens=40, seconds=0.5)
    labels = {**MODEL, "stage": "encoder"}
    assert value(metrics, "batch_size_rows_sum", **labels) == 4
    assert value(metrics, "batch_padding_ratio_sum", **labels) == 0.25
    assert value(metrics, "batch_tokens_total", **labels) == 30
    assert value(metrics, "batch_padded_tokens_total", **labels) == 40
    assert value(metrics, "batch_duration_seconds_sum", **labels) == 0.5


def test_a_request_is_counted_by_its_stages_and_tokens() -> None:
    metrics = Metrics()
    counts = metrics.of_model(**MODEL)
    counts.tokenize.observe(0.1)
    counts.request_done(queue_s=0.2, compute_s=0.3, tokens_computed=5, tokens_reused=6)
    for stage, seconds in {"tokenize": 0.1, "queue": 0.2, "compute": 0.3}.items():
        assert value(metrics, "stage_duration_seconds_sum", **MODEL, stage=stage) == seconds
    assert value(metrics, "tokens_computed_total", **MODEL) == 5
    assert value(metrics, "tokens_reused_total", **MODEL) == 6


def test_dropped_requests_are_counted_by_reason() -> None:
    metrics = Metrics()
    metrics.dropped(**MODEL, reason="deadline", count=3)
    assert value(metrics, "requests_dropped_total", **MODEL, reason="deadline") == 3


def test_schedulers_and_caches_are_read_at_each_scrape() -> None:
    metrics = Metrics()
    scheduler = SimpleNamespace(waiting_requests=2, waiting_tokens=30)
    metrics.watch_scheduler(**MODEL, scheduler=scheduler)
    for _ in range(2):
        metrics.watch_cache(SimpleNamespace(budget_bytes=50, entries=1, bytes=20, hits=3, misses=4, evictions=5))
    assert value(metrics, "queue_requests", **MODEL) == 2
    scheduler.waiting_tokens = 31
    assert value(metrics, "queue_tokens", **MODEL) == 31
    assert value(metrics, "cache_entries") == 2
    assert value(metrics, "cache_bytes") == 40
    assert value(metrics, "cache_limit_bytes") == 100
    assert value(metrics, "cache_hits_total") == 6
    assert value(metrics, "cache_misses_total") == 8
    assert value(metrics, "cache_evictions_total") == 10


def test_a_loaded_model_is_named_and_its_counters_begin_at_zero() -> None:
    metrics = Metrics()
    metrics.model_loaded(model="m", version="1", kind="language_model", provider="CPU", architecture="LSTM 2x16")
    info = {**MODEL, "kind": "language_model", "provider": "CPU", "architecture": "LSTM 2x16"}
    assert value(metrics, "model_info", **info) == 1
    assert value(metrics, "tokens_computed_total", **MODEL) == 0


def test_requests_are_counted_by_method_and_code_while_they_run_and_when_they_end() -> None:
    calls = Metrics()
    series = calls.calls.of_request("Predict")
    assert value(calls, "requests_total", method="Predict", code="OK") == 0
    series.begin()
    assert value(calls, "requests_in_flight", method="Predict") == 1
    series.end("NOT_FOUND", 0.25)
    assert value(calls, "requests_in_flight", method="Predict") == 0
    assert value(calls, "requests_total", method="Predict", code="NOT_FOUND") == 1
    assert value(calls, "request_duration_seconds_sum", method="Predict") == 0.25


def test_nothing_is_lost_when_many_runner_threads_count() -> None:
    metrics = Metrics()

    def count() -> None:
        batches = metrics.of_batches(**MODEL, stage="recurrent")
        for _ in range(200):
            batches.run(rows=2, tokens=1, padded_tokens=1, seconds=0.0)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = {**MODEL, "stage": "recurrent"}
    assert value(metrics, "batch_tokens_total", **labels) == 1600
    assert value(metrics, "batch_size_rows_count", **labels) == 1600
    assert value(metrics, "batch_size_rows_sum", **labels) == 3200


def test_a_batch_is_counted_by_what_kept_it_from_being_larger() -> None:
    metrics = Metrics()
    releases = metrics.queues.of_model(**MODEL, max_rows=8, max_tokens=100).releases
    releases.batch(size=3, left=0, share=16, limit=8)
    releases.batch(size=8, left=1, share=16, limit=8)
    releases.batch(size=4, left=9, share=4, limit=8)
    releases.batch(size=2, left=9, share=4, limit=8)
    for reason in ("all", "full", "part", "alike"):
        assert value(metrics, "batches_released_total", **MODEL, reason=reason) == 1
    assert value(metrics, "batch_limit_rows", **MODEL) == 8
    assert value(metrics, "queue_limit_tokens", **MODEL) == 100


def test_a_refusal_is_counted_by_its_reason_and_other_errors_are_not() -> None:
    metrics = Metrics()
    series = metrics.calls.of_request("Predict")
    series.failed(OverloadedError("full", reason="queue_full"))
    series.failed(ShuttingDownError("draining"))
    series.failed(InvalidRequestError("text: is empty"))
    assert value(metrics, "requests_refused_total", method="Predict", reason="queue_full") == 1
    assert value(metrics, "requests_refused_total", method="Predict", reason="draining") == 1
    assert metrics.registry.get_sample_value("hiddenstate_requests_refused_total", {"method": "Predict"}) is None


def test_nothing_is_left_of_a_model_that_is_unloaded() -> None:
    metrics = Metrics()
    metrics.model_loaded(**MODEL, kind="language_model", provider="CPU", architecture="LSTM 2x16")
    metrics.queues.of_model(**MODEL, max_rows=8, max_tokens=100).releases.batch(size=1, left=0, share=1, limit=8)
    metrics.of_batches(**MODEL, stage="head").run(rows=1, tokens=1, padded_tokens=1, seconds=0.1)
    metrics.dropped(model="m", version="1", reason="failed")
    metrics.model_unloaded(**MODEL)
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    assert not [sample for sample in samples if "model" in sample.labels]
