"""Traces as a collector receives them, and endpoints that are no collector."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bundles import language_model_bundle
from hiddenstate.v1.language_model_pb2 import PredictRequest, PredictStreamRequest, StreamedPredictRequest
from hiddenstate_server.config import Settings
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.server import Server
from serving import failure, held, serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
NOT_SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
PREDICT = "hiddenstate.v1.LanguageModelService/Predict"


class Collector(TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[ExportTraceServiceRequest] = []

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        self.requests.append(request)
        return ExportTraceServiceResponse()

    def spans(self, name: str) -> list[Span]:
        """Returns the spans of a name, which are all here once the server has stopped."""
        resources = (resource for request in self.requests for resource in request.resource_spans)
        found = (span for resource in resources for scope in resource.scope_spans for span in scope.spans)
        return [span for span in found if span.name == name]


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(None)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    language_model_bundle(models)
    return models


async def test_a_call_is_part_of_its_callers_trace_down_to_the_batch_it_shares(
    models_dir: Path, collector: Collector
) -> None:
    async with serving(models_dir, trace_endpoint=collector.address) as wire:
        with held(wire.server.repository.language_model()) as gate:
            first = asyncio.ensure_future(wire.language_model.Predict(PredictRequest(text="The"), metadata=SAMPLED))
            await gate.reached()
            gate.open()
            await first
        await wire.language_model.Predict(PredictRequest(text="The car"))
    calls = collector.spans(PREDICT)
    (call,) = [span for span in calls if span.trace_id.hex() == TRACE]
    assert call.parent_span_id.hex() == PARENT
    assert call.kind == Span.SPAN_KIND_SERVER
    (queue,), (compute,) = (children(collector.spans(name), call) for name in ("queue", "compute"))
    assert call.start_time_unix_nano <= queue.start_time_unix_nano <= queue.end_time_unix_nano
    assert queue.end_time_unix_nano == compute.start_time_unix_nano < compute.end_time_unix_nano
    assert attributes(compute)["hiddenstate.model"] == "tiny-lm"
    links = [link.span_id for batch in collector.spans("batch") for link in batch.links]
    assert set(links) == {span.span_id for span in calls}
    names = {each.key: each.value.string_value for each in collector.requests[-1].resource_spans[0].resource.attributes}
    assert names["service.name"] == "hiddenstate"


async def test_calls_of_one_batch_are_links_of_one_span(models_dir: Path, collector: Collector) -> None:
    async with serving(models_dir, trace_endpoint=collector.address) as wire:
        requests = [StreamedPredictRequest(request_id=n + 1, predict=PredictRequest(text="The")) for n in range(3)]
        stream = wire.language_model.PredictStream(metadata=SAMPLED)
        await stream.write(PredictStreamRequest(requests=requests))
        await stream.done_writing()
        replies = [reply async for message in stream for reply in message.responses]
    assert len(replies) == 3
    (call,) = collector.spans("hiddenstate.v1.LanguageModelService/PredictStream")
    assert len(children(collector.spans("compute"), call)) == 3
    batches = collector.spans("batch")
    assert {link.span_id for batch in batches for link in batch.links} == {call.span_id}
    assert sum(attributes(batch)["hiddenstate.batch.works"] for batch in batches) >= 3


async def test_what_the_caller_or_the_ratio_does_not_sample_is_not_sent(models_dir: Path, collector: Collector) -> None:
    async with serving(models_dir, trace_endpoint=collector.address, trace_sample_ratio=0.0) as wire:
        await wire.language_model.Predict(PredictRequest(text="The"))
        await wire.language_model.Predict(PredictRequest(text="The"), metadata=NOT_SAMPLED)
        await wire.language_model.Predict(PredictRequest(text="The"), metadata=SAMPLED)
    assert [span.trace_id.hex() for span in collector.spans(PREDICT)] == [TRACE]
    assert len(collector.spans("compute")) == 1


async def test_a_call_that_fails_says_with_which_status_and_not_what_was_sent(
    models_dir: Path, collector: Collector
) -> None:
    async with serving(models_dir, trace_endpoint=collector.address) as wire:
        await failure(wire.language_model.Predict(PredictRequest(text="secret", model="no-such-model")))
    (call,) = collector.spans(PREDICT)
    assert (call.status.message, attributes(call)["rpc.grpc.status_code"]) == ("NOT_FOUND", 5)
    assert not call.events
    assert "secret" not in str(collector.requests)


async def test_a_collector_that_goes_away_fails_no_call(models_dir: Path, collector: Collector) -> None:
    async with serving(models_dir, trace_endpoint=collector.address) as wire:
        collector.Export = lambda request, context: context.abort(grpc.StatusCode.INTERNAL, "")  # type: ignore[method-assign]
        assert await wire.language_model.Predict(PredictRequest(text="The"))


async def test_an_endpoint_that_does_not_answer_is_told_at_start(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hiddenstate_server.tracing._ANSWER_S", 0.5)
    settings = Settings.of(models=models_dir, listen="127.0.0.1:0", metrics="off", trace_endpoint="127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"--trace-endpoint: no OTLP collector answers gRPC at 127\.0\.0\.1:1 within"):
        await Server.start(settings)


async def test_an_endpoint_that_takes_no_traces_is_told_at_start(models_dir: Path) -> None:
    async with serving(models_dir) as wire:  # speaks gRPC, and no OTLP
        endpoint = str(wire.server.address)
        settings = Settings.of(models=models_dir, listen="127.0.0.1:0", metrics="off", trace_endpoint=endpoint)
        with pytest.raises(ConfigError, match=r"--trace-endpoint: what answers gRPC at .* takes no OTLP traces"):
            await Server.start(settings)


@pytest.mark.parametrize("endpoint", ["localhost", "ftp://localhost:4317", "http://localhost:4317/v1/traces", ":4317"])
def test_an_endpoint_that_is_none_is_told(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="--trace-endpoint: "):
        Settings.of(trace_endpoint=endpoint)


def children(spans: Sequence[Span], parent: Span) -> list[Span]:
    """Returns those right below a span."""
    return [span for span in spans if (span.trace_id, span.parent_span_id) == (parent.trace_id, parent.span_id)]


def attributes(span: Span) -> dict[str, Any]:
    """Returns a span's attributes."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}


async def test_an_extra_that_is_missing_is_told_at_start(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hiddenstate_server.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    settings = Settings.of(models=models_dir, listen="127.0.0.1:0", metrics="off", trace_endpoint="127.0.0.1:1")
    with pytest.raises(
        ConfigError, match=r"--trace-endpoint needs opentelemetry.* pip install 'hiddenstate\[tracing\]'"
    ):
        await Server.start(settings)


def test_nothing_of_it_is_loaded_where_traces_are_off() -> None:
    code = "import sys, hiddenstate_server.server; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"
