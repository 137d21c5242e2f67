"""A process that hangs or grows too large fails what hangs with a reason, turns its health and ends."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from hiddenstate.v1.language_model_pb2 import PredictRequest
from hiddenstate_server.config import MIB, Settings
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.runner import LanguageModelRunner
from hiddenstate_server.watchdog import Watchdog, resident_memory
from serving import WAIT_S, Wire, failure, held, serving


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> "asyncio.Queue[int]":
    """The exit codes with which the server would have ended its process."""
    codes: asyncio.Queue[int] = asyncio.Queue()
    monkeypatch.setattr("hiddenstate_server.server.end_process", codes.put_nowait)
    return codes


async def health(wire: Wire) -> int:
    stub: Any = HealthStub(wire.channel)  # typed for blocking channels
    status: int = (await stub.Check(HealthCheckRequest())).status
    return status


async def test_a_batch_that_hangs_fails_with_a_reason_and_the_process_ends(
    models_dir: Path, ended: "asyncio.Queue[int]", caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(models_dir, batch_timeout_s=0.1) as wire:
        with held(wire.server.repository.language_model()):
            error = await failure(wire.language_model.Predict(PredictRequest(text="I", top_k=1)))
            assert error.code() is grpc.StatusCode.INTERNAL
            assert "did not end its work in time" in (error.details() or "")
            assert await health(wire) == HealthCheckResponse.NOT_SERVING
            refused = await failure(wire.language_model.Predict(PredictRequest(text="I", top_k=1)))
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
            assert await asyncio.wait_for(ended.get(), WAIT_S) == 1
    assert "tiny-lm version 1: a batch runs for more than 0.1 s (--batch-timeout-s): ending" in caplog.text


async def test_what_waits_behind_a_batch_that_hangs_is_left_for_another_server(
    models_dir: Path, ended: "asyncio.Queue[int]"
) -> None:
    async with serving(models_dir, batch_timeout_s=0.1, runners=1) as wire:
        with held(wire.server.repository.language_model()) as gate:
            first = asyncio.ensure_future(failure(wire.language_model.Predict(PredictRequest(text="I", top_k=1))))
            await gate.reached()
            second = wire.language_model.Predict(PredictRequest(text="you", top_k=1))
            assert (await first).code() is grpc.StatusCode.INTERNAL
            assert await asyncio.wait_for(ended.get(), WAIT_S) == 1
            assert not second.done()
            second.cancel()


async def test_a_process_over_its_memory_finishes_what_runs_and_ends(
    models_dir: Path, ended: "asyncio.Queue[int]", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used = [100 * MIB]
    monkeypatch.setattr("hiddenstate_server.watchdog.resident_memory", lambda: used[0])
    monkeypatch.setattr("hiddenstate_server.watchdog._LOOK_EVERY_S", 0.01)
    async with serving(models_dir, max_memory=200 * MIB) as wire:
        with held(wire.server.repository.language_model()) as gate:
            running = wire.language_model.Predict(PredictRequest(text="I", top_k=1))
            await gate.reached()
            used[0] = 201 * MIB
            while await health(wire) == HealthCheckResponse.SERVING:
                pass
            gate.open()
            assert (await running).candidates
        assert await asyncio.wait_for(ended.get(), WAIT_S) == 1
    assert "the process uses 201 MiB of memory, more than 200 MiB (--max-memory): ending" in caplog.text


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("the device is lost")


async def fail_in_a_row(wire: Wire, times: int) -> None:
    for _ in range(times):
        error = await failure(wire.language_model.Predict(PredictRequest(text="I", top_k=1)))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "the model could not be run; the server's log has the reason"


async def test_a_model_that_fails_whatever_it_is_given_ends_the_process(
    models_dir: Path, ended: "asyncio.Queue[int]", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hiddenstate_server.watchdog._LOOK_EVERY_S", 0.01)
    async with serving(models_dir, cache_bytes=0) as wire:
        stub: Any = HealthStub(wire.channel)
        told = aiter(stub.Watch(HealthCheckRequest()))
        assert (await anext(told)).status == HealthCheckResponse.SERVING
        monkeypatch.setattr(LanguageModelRunner, "recur", fail)
        await fail_in_a_row(wire, 3)
        assert (await anext(told)).status == HealthCheckResponse.NOT_SERVING
        assert await asyncio.wait_for(ended.get(), WAIT_S) == 1
    assert "3 batches in a row failed, and so does a trial: the device is lost: ending" in caplog.text


async def test_requests_that_a_model_fails_on_do_not_end_the_process(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(models_dir) as wire:
        scheduler = wire.server.repository.language_model().scheduler
        watchdog, tried = Watchdog(lambda: [scheduler], Settings()), asyncio.Event()
        with monkeypatch.context() as patch:
            patch.setattr(scheduler, "_step", fail)
            await fail_in_a_row(wire, 5)
        assert scheduler.failures == 5
        loop, trial = asyncio.get_running_loop(), scheduler.trial
        assert trial is not None

        def notice() -> None:
            trial()
            loop.call_soon_threadsafe(tried.set)

        scheduler.trial = notice
        watching = asyncio.create_task(watchdog.trouble())
        await asyncio.wait_for(tried.wait(), WAIT_S)
        assert (await wire.language_model.Predict(PredictRequest(text="I", top_k=1))).candidates
        assert scheduler.failures == 0
        assert not watching.done()
        watching.cancel()


def test_a_limit_that_is_passed_already_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match=r"--max-memory: the process uses 300 MiB .* before it serves; allow more"):
        Watchdog(list, Settings(max_memory=200 * MIB), lambda: 300 * MIB)


def test_memory_is_told_in_bytes() -> None:
    assert MIB < resident_memory() < 2**40


def test_without_limits_nothing_is_wrong() -> None:
    assert Watchdog(list, Settings(batch_timeout_s=0), lambda: 2**40).look() is None
