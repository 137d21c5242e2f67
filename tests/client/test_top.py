"""`hiddenstate top`: what two metrics pages say of the time between them, and pages that cannot be read."""

import http.server
import itertools
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry, generate_latest

from certificates import issue
from hiddenstate.cli import main
from hiddenstate.cli.metrics_page import Page, Span, parse_page
from hiddenstate_server.call_metrics import MethodMetrics
from hiddenstate_server.config import Address, Settings
from hiddenstate_server.exposition import Exposition
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.security.certificates import CertificateFiles, http_context

MODEL = {"model": "lm", "version": "1"}


def page(registry: CollectorRegistry, at: float) -> Page:
    found = parse_page(generate_latest(registry).decode(), at)
    assert found
    return found


def test_rates_and_quantiles_are_those_of_the_time_between_two_pages() -> None:
    metrics = Metrics()
    series = metrics.calls.of_request("Predict")
    end(series, 30.0, times=100)  # before the span
    before = page(metrics.registry, 10.0)
    end(series, 0.002, times=30)
    end(series, 0.09, times=10)
    span = Span(before, page(metrics.registry, 14.0))
    assert span.rate("hiddenstate_requests_total", method="Predict") == 10.0
    assert 0.001 < span.quantile(0.5, "hiddenstate_request_duration_seconds", method="Predict") <= 0.0025
    assert 0.05 < span.quantile(0.99, "hiddenstate_request_duration_seconds", method="Predict") <= 0.1
    assert span.mean("hiddenstate_request_duration_seconds") == pytest.approx((30 * 0.002 + 10 * 0.09) / 40)


def test_counters_of_a_server_that_was_started_anew_count_from_zero() -> None:
    old, new = Metrics(), Metrics()
    end(old.calls.of_request("Predict"), 0.1, times=9)
    end(new.calls.of_request("Predict"), 0.1, times=4)
    span = Span(page(old.registry, 0.0), page(new.registry, 1.0))
    assert span.added("hiddenstate_requests_total", method="Predict") == 4


def test_what_never_happened_is_not_a_number() -> None:
    metrics = Metrics()
    metrics.calls.of_request("Predict")
    span = Span(page(metrics.registry, 0.0), page(metrics.registry, 1.0))
    assert math.isnan(span.quantile(0.5, "hiddenstate_request_duration_seconds", method="Predict"))
    assert math.isnan(span.mean("hiddenstate_request_duration_seconds"))


def test_once_prints_a_frame_with_requests_models_and_refusals() -> None:
    metrics = Metrics()
    metrics.model_loaded(**MODEL, kind="language_model", provider="CPUExecutionProvider", architecture="LSTM 2x16")
    metrics.queues.of_model(**MODEL, max_rows=64, max_tokens=1000)
    metrics.calls.of_request("Predict").refused("queue_full")
    end(metrics.calls.of_request("Predict"), 0.1, times=3)
    exposition = Exposition(Address("127.0.0.1", 0), metrics.registry)
    try:
        result = top("--once", "--interval-s", "0.2", "--metrics", str(exposition.address))
    finally:
        exposition.close()
    assert result.exit_code == 0, result.output
    for expected in ("Predict", "lm 1 CPU", "of 64", "refused: queue_full", "1 in all"):
        assert expected in result.output


def test_in_a_pipe_frames_follow_each_other() -> None:
    metrics = Metrics()
    exposition = Exposition(Address("127.0.0.1", 0), metrics.registry)
    command = [sys.executable, "-c", "from hiddenstate.cli import main; main()", "top", "--interval-s", "0.2"]
    try:
        with subprocess.Popen(
            [*command, "--metrics", str(exposition.address)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            heads = (line for line in process.stdout if line.startswith("hiddenstate "))
            assert len(list(itertools.islice(heads, 3))) == 3
            process.kill()
    finally:
        exposition.close()


def test_a_page_that_is_off_is_told_apart() -> None:
    result = top("--once", "--metrics", "off")
    assert result.exit_code == 2
    assert "--metrics: with off the server shows no page" in result.output


def test_a_page_that_cannot_be_read_is_one_clear_line() -> None:
    result = top("--once", "--metrics", "127.0.0.1:1")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "--metrics: http://127.0.0.1:1/metrics cannot be read: Connection refused" in result.output


@pytest.mark.parametrize("port", ["99999", "0"])
def test_a_port_that_cannot_be_is_told(port: str) -> None:
    result = top("--once", "--metrics", f"127.0.0.1:{port}")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.endswith(f"cannot be read: there is no port {port}; they go from 1 to 65535\n")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "it answers 404 Not Found"),
        (b"\0\0\4\0 not http\r\n\r\n", "it does not answer HTTP"),
        (b"HTTP/1.0 200 OK\r\n\r\nother_total 1\n", "is not the metrics page of a hiddenstate server"),
        (b"HTTP/1.0 200 OK\r\n\r\n{]} = 3 {\n", "is not the metrics page of a hiddenstate server"),
        (b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe", "it is not text"),
    ],
)
def test_what_answers_something_else_is_told_apart(answer: bytes, reason: str) -> None:
    with answering(answer) as address:
        result = top("--once", "--metrics", address)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert reason in result.output


def end(series: MethodMetrics, seconds: float, *, times: int) -> None:
    for _ in range(times):
        series.begin()
        series.end("OK", seconds)


def top(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["top", *arguments], env={"COLUMNS": "120"})


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Answers every connection with the same bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_page_behind_tls_is_read_with_its_authority(tmp_path: Path) -> None:
    issued, other = issue(tmp_path), issue(tmp_path, "other")
    settings = Settings.of(tls_cert=issued.cert, tls_key=issued.key, tls_client_ca=issued.ca)
    files = CertificateFiles.of(settings)
    assert files
    exposition = Exposition(Address("127.0.0.1", 0), Metrics().registry, http_context(files.watched()))
    with closing(exposition):
        at = ("top", "--once", "--interval-s", "0.2", "--metrics", str(exposition.address), "--tls-ca")
        shown = ("--tls-cert", str(issued.cert), "--tls-key", str(issued.key))
        assert "REQUESTS" in CliRunner().invoke(main, [*at, str(issued.ca), *shown]).output
        refused = CliRunner().invoke(main, [*at, str(other.ca), *shown])
        assert refused.exit_code == 1
        assert "certificate" in refused.output
        wrong = CliRunner().invoke(main, [*at, str(issued.ca), "--tls-cert", str(issued.cert)])
        assert "give both or none" in wrong.output
        wrong = CliRunner().invoke(main, [*at, str(issued.key), *shown])
        assert (wrong.exit_code, "--tls-ca: " in wrong.output) == (2, True)
