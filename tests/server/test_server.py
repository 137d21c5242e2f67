"""The server as a whole: health, reflection, metrics over HTTP, ports, and the drain."""

import asyncio
import importlib
import socket
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from prometheus_client.parser import text_string_to_metric_families

from hiddenstate.connection import channel_options
from hiddenstate.v1.language_model_pb2 import (
    GenerateRequest,
    GenerateResponse,
    PredictRequest,
    PredictStreamRequest,
    StreamedPredictRequest,
    StreamedPredictResponse,
)
from hiddenstate.v1.model_pb2 import ListModelsRequest
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from hiddenstate_server.config import Settings
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.server import Server, server_options
from serving import WAIT_S, Wire, failure, held, serving, until

SERVICES = {
    "hiddenstate.v1.LanguageModelService",
    "hiddenstate.v1.SentenceEncoderService",
    "hiddenstate.v1.ModelService",
    "inference.GRPCInferenceService",
}
SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


async def health(wire: Wire, name: str) -> int:
    """Asks the health service."""
    stub: Any = HealthStub(wire.channel)  # without type stubs for asyncio, as is the one for reflection
    response = await stub.Check(HealthCheckRequest(service=name))
    return int(response.status)


@pytest.mark.parametrize("name", ["", *sorted(SERVICES), "tiny-lm", "tiny-encoder"])
async def test_the_server_each_service_and_each_model_are_healthy(wire: Wire, name: str) -> None:
    assert await health(wire, name) == SERVING


async def test_the_health_of_what_is_not_there_is_not_found(wire: Wire) -> None:
    error = await failure(health(wire, "nobody"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_names_all_services_and_describes_them(wire: Wire) -> None:
    stub: Any = ServerReflectionStub
    call = stub(wire.channel).ServerReflectionInfo()
    await call.write(ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await call.read()).list_services_response.service}
    assert names == SERVICES | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    for name in SERVICES:
        await call.write(ServerReflectionRequest(file_containing_symbol=name))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
    await call.done_writing()


async def test_a_method_that_does_not_exist_is_unimplemented_and_makes_no_series(wire: Wire) -> None:
    call: Any = wire.channel.unary_unary("/hiddenstate.v1.LanguageModelService/Nothing")
    error = await failure(call(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    families = {family.name: family for family in wire.server.metrics.registry.collect()}
    methods = {sample.labels["method"] for sample in families["hiddenstate_requests"].samples}
    assert "Nothing" not in methods


async def test_what_was_served_is_scraped_over_http(models_dir: Path) -> None:
    server = await Server.start(Settings(models=models_dir, listen="127.0.0.1:0", metrics="127.0.0.1:0"))
    async with grpc.aio.insecure_channel(str(server.address)) as channel:
        wire = Wire(server, channel)
        for _ in range(2):
            await wire.language_model.Predict(PredictRequest(text="I would like"))
        await failure(wire.language_model.Predict(PredictRequest()))
        await wire.sentence_encoder.Encode(EncodeRequest(sentences=["The car was new.", "The"]))
        text = await asyncio.to_thread(scrape, f"http://{server.metrics_address}/metrics")
    await server.stop()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["hiddenstate_requests_total", "OK", "Predict"] == 2
    assert samples["hiddenstate_requests_total", "INVALID_ARGUMENT", "Predict"] == 1
    assert samples["hiddenstate_request_duration_seconds_count", "Predict"] == 3
    assert samples["hiddenstate_tokens_computed_total", "tiny-lm", "1"] == 4
    assert samples["hiddenstate_tokens_reused_total", "tiny-lm", "1"] == 4
    assert samples["hiddenstate_cache_hits_total",] == 1
    assert samples["hiddenstate_cache_bytes",] > 0
    assert samples["hiddenstate_batch_size_rows_sum", "tiny-encoder", "encoder", "1"] == 2
    assert samples["hiddenstate_stage_duration_seconds_count", "tiny-lm", "compute", "1"] == 2
    assert samples["hiddenstate_stage_duration_seconds_count", "tiny-lm", "tokenize", "1"] == 3
    assert samples["hiddenstate_queue_requests", "tiny-lm", "1"] == 0


def scrape(url: str) -> str:
    """Reads what Prometheus would read."""
    with urllib.request.urlopen(url, timeout=WAIT_S) as response:
        text: str = response.read().decode()
        return text


@pytest.mark.parametrize("options", [server_options(Settings()), channel_options(1)], ids=["server", "client"])
def test_grpc_knows_every_option_by_its_name(options: Sequence[tuple[str, Any]]) -> None:
    # It ignores others without a word: with a name that it did not know, clients that pinged were cut off.
    core = Path(str(importlib.import_module("grpc._cython.cygrpc").__file__)).read_bytes()
    assert [name for name, _ in options if name.encode() + b"\0" not in core] == []


@pytest.mark.parametrize("name", ["listen", "metrics"])
async def test_a_port_in_use_is_told_by_its_flag(models_dir: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = {"listen": "127.0.0.1:0", "metrics": "127.0.0.1:0", name: address}
        with pytest.raises(ConfigError, match=f"--{name} {address}: cannot listen there: Address already in use"):
            await Server.start(Settings.of(models=models_dir, **settings))


async def test_a_second_server_does_not_share_the_port_of_the_first(wire: Wire, models_dir: Path) -> None:
    with pytest.raises(ConfigError, match="Address already in use"):
        await Server.start(Settings(models=models_dir, listen=str(wire.server.address), metrics="off"))


async def test_a_host_that_does_not_exist_is_told_by_its_flag(models_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"--listen nowhere\.invalid:50051: cannot listen there: "):
        await Server.start(Settings.of(models=models_dir, listen="nowhere.invalid:50051", metrics="off"))


async def test_a_server_that_cannot_start_gives_its_ports_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="no models"):
        await Server.start(Settings.of(models=tmp_path, listen="127.0.0.1:0", metrics=address))
    with socket.create_server(("127.0.0.1", int(address.split(":")[1]))):
        pass


async def test_a_drain_refuses_new_calls_and_finishes_running_ones(wire: Wire) -> None:
    with held(wire.server.repository.language_model()) as gate:
        running = asyncio.ensure_future(wire.language_model.Predict(PredictRequest(text="I would")))
        generating = wire.language_model.Generate(GenerateRequest(text="I would", max_tokens=20, temperature=0))
        await gate.reached()
        await until(lambda: wire.server.running.count == 2)
        drain = asyncio.ensure_future(wire.server.drain())
        await until(lambda: wire.server.running.draining)
        assert await health(wire, "") == NOT_SERVING
        assert await health(wire, "tiny-lm") == NOT_SERVING
        for call in (
            wire.language_model.Predict(PredictRequest(text="I")),
            wire.language_model.Generate(GenerateRequest(text="I")),
            wire.language_model.PredictStream(),
            wire.models.ListModels(ListModelsRequest()),
        ):
            error = await failure(call)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "shutting down" in (error.details() or "")
        assert not drain.done()
    assert len((await running).candidates) == 5
    responses = [response async for response in generating]
    assert responses[-1].finish_reason == GenerateResponse.FINISH_REASON_LENGTH
    assert await drain


async def test_a_drain_answers_what_a_stream_has_sent_and_then_ends_it(wire: Wire) -> None:
    call: Any = wire.language_model.PredictStream()
    requests = [
        StreamedPredictRequest(request_id=number, context_id=1, predict=PredictRequest(text="The"))
        for number in range(10)
    ]
    with held(wire.server.repository.language_model()) as gate:
        await call.write(PredictStreamRequest(requests=requests))
        await gate.reached()
        drain = asyncio.ensure_future(wire.server.drain())
        await until(lambda: wire.server.running.draining)
    replies: list[StreamedPredictResponse] = []
    while len(replies) < 10:
        replies += (await call.read()).responses
    assert all(len(reply.response.candidates) == 5 for reply in replies)
    error = await failure(call.read())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert await drain


async def test_a_drain_answers_a_message_that_is_only_half_taken_in(models_dir: Path) -> None:
    async with serving(models_dir, max_stream_pending=2) as wire:
        call: Any = wire.language_model.PredictStream()
        requests = [
            StreamedPredictRequest(request_id=number, predict=PredictRequest(text="The")) for number in range(9)
        ]
        with held(wire.server.repository.language_model()) as gate:
            await call.write(PredictStreamRequest(requests=requests))
            await gate.reached()
            drain = asyncio.ensure_future(wire.server.drain())
            await until(lambda: wire.server.running.draining)
        replies = 0
        while replies < 9:
            replies += len((await call.read()).responses)
        assert await drain


async def test_a_drain_cuts_off_what_does_not_finish_in_time(models_dir: Path) -> None:
    async with serving(models_dir, drain_timeout_s=0.01) as wire:
        with held(wire.server.repository.language_model()) as gate:
            running = asyncio.ensure_future(wire.language_model.Predict(PredictRequest(text="I would")))
            await gate.reached()
            assert not await wire.server.drain()
            gate.open()
            await asyncio.wait([running])


async def test_what_a_drain_cuts_off_is_given_no_more_time(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiddenstate_server.server._SEND_S", 10 * WAIT_S)
    async with serving(models_dir, drain_timeout_s=0.01) as wire:
        with held(wire.server.repository.language_model()) as gate:
            running = asyncio.ensure_future(wire.language_model.Predict(PredictRequest(text="I would")))
            await gate.reached()
            assert not await wire.server.drain()
            wire.server._parts.callback(gate.open)  # once calls are stopped, the runner's batch is waited for
            async with asyncio.timeout(WAIT_S):
                await wire.server.stop()
            assert (await failure(running)).code() is grpc.StatusCode.UNAVAILABLE
