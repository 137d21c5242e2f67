"""How errors become statuses, and what is logged of calls."""

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from hiddenstate.v1.language_model_pb2 import PredictRequest, PredictStreamRequest, StreamedPredictRequest
from hiddenstate_server.errors import (
    DeadlineError,
    InvalidRequestError,
    ModelFailedError,
    ModelNotFoundError,
    OverloadedError,
    ServingError,
    ShuttingDownError,
)
from hiddenstate_server.interceptor import UNKNOWN_ERROR, status_of
from serving import Wire, failure, serving, until


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequestError("what to change"), grpc.StatusCode.INVALID_ARGUMENT),
        (ModelNotFoundError("what to change"), grpc.StatusCode.NOT_FOUND),
        (OverloadedError("what to change", reason="queue_full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (ShuttingDownError("what to change"), grpc.StatusCode.UNAVAILABLE),
        (DeadlineError("what to change"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (ModelFailedError("what to change"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_each_error_goes_through_the_wire_with_its_code_and_message(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, error: ServingError, code: grpc.StatusCode
) -> None:
    monkeypatch.setattr(wire.server.repository, "language_model", raiser(error))
    failed = await failure(wire.language_model.Predict(PredictRequest(text="I")))
    assert (failed.code(), failed.details()) == (code, "what to change")
    await until(lambda: wire.metric("hiddenstate_requests_total", method="Predict", code=code.name) == 1)


async def test_an_unknown_error_is_logged_and_its_text_stays_inside(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire.server.repository, "language_model", raiser(RuntimeError("secret")))
    failed = await failure(wire.language_model.Predict(PredictRequest(text="I")))
    assert (failed.code(), failed.details()) == (grpc.StatusCode.INTERNAL, UNKNOWN_ERROR)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info
    assert "secret" in str(record.exc_info[1])


async def test_an_unknown_error_of_one_streamed_request_leaves_the_stream_open(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    call: Any = wire.language_model.PredictStream()
    message = PredictStreamRequest(requests=[StreamedPredictRequest(request_id=1, predict=PredictRequest(text="I"))])
    with monkeypatch.context() as patch:
        patch.setattr(wire.server.repository, "language_model", raiser(RuntimeError("secret")))
        await call.write(message)
        reply = (await call.read()).responses[0]
    assert (reply.error.code, reply.error.message) == (grpc.StatusCode.INTERNAL.value[0], UNKNOWN_ERROR)
    await call.write(message)
    assert (await call.read()).responses[0].response.candidates
    call.cancel()


def test_a_message_is_short_enough_for_a_header_whatever_it_quotes() -> None:
    code, message = status_of(InvalidRequestError("\N{GRINNING FACE}" * 100_000))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert 3 * len(message.encode()) < 8192  # a header holds %XX for each byte


@pytest.mark.parametrize(
    ("log_calls", "log_sample", "logged"),
    [
        ("none", 1.0, []),
        ("failed", 0.0, ["NOT_FOUND"]),
        ("all", 1.0, ["OK", "NOT_FOUND"]),
        ("all", 0.0, ["NOT_FOUND"]),
    ],
)
async def test_calls_are_logged_as_the_settings_say(
    models_dir: Path, caplog: pytest.LogCaptureFixture, log_calls: str, log_sample: float, logged: list[str]
) -> None:
    caplog.set_level(logging.INFO, "hiddenstate_server.interceptor")
    async with serving(models_dir, log_calls=log_calls, log_sample=log_sample) as wire:
        await wire.language_model.Predict(PredictRequest(text="I"))
        await failure(wire.language_model.Predict(PredictRequest(text="I", model="nobody")))
    fields: list[dict[str, Any]] = [record.__dict__.get("fields", {}) for record in caplog.records]
    calls = [each for each in fields if "code" in each]
    assert [call["code"] for call in calls] == logged
    assert all(call["method"] == "Predict" and call["duration_ms"] > 0 and call["peer"] for call in calls)


async def test_failed_calls_beyond_ten_in_a_second_are_counted_and_not_logged(
    models_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "hiddenstate_server.interceptor")
    now = 5.0
    clock = SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter)
    monkeypatch.setattr("hiddenstate_server.interceptor.time", clock)
    async with serving(models_dir) as wire:
        for _ in range(12):
            await failure(wire.language_model.Predict(PredictRequest(text="I", model="nobody")))
        now = 6.0
        await failure(wire.language_model.Predict(PredictRequest(text="I", model="nobody")))
    calls = [record.__dict__["fields"] for record in caplog.records if record.message == "call"]
    assert [call.get("more_not_logged") for call in calls] == [*[None] * 10, 2]


async def test_failed_calls_that_were_not_logged_are_told_though_no_other_fails(
    models_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "hiddenstate_server.interceptor")
    now = 5.0
    clock = SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter)
    monkeypatch.setattr("hiddenstate_server.interceptor.time", clock)
    monkeypatch.setattr("hiddenstate_server.interceptor._LEFT_OUT_S", 0.001)
    async with serving(models_dir) as wire:
        for _ in range(12):
            await failure(wire.language_model.Predict(PredictRequest(text="I", model="nobody")))
        assert not told_of_left_out(caplog)
        now = 6.0
        await until(lambda: told_of_left_out(caplog))
        assert wire.server._methods._telling is None
        await failure(wire.language_model.Predict(PredictRequest(text="I", model="nobody")))
    assert told_of_left_out(caplog) == [{"method": "Predict", "code": "NOT_FOUND", "more_not_logged": 2}]
    calls = [record.__dict__["fields"] for record in caplog.records if record.message == "call"]
    assert not any("more_not_logged" in call for call in calls)


async def test_failed_calls_that_were_not_logged_are_told_when_the_server_stops(
    models_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hiddenstate_server.interceptor")
    calls = 0
    async with serving(models_dir) as wire:
        while wire.server._methods._telling is None:
            await failure(wire.language_model.Predict(PredictRequest(text="I", model="nobody")))
            calls += 1
    logged = len([record for record in caplog.records if record.message == "call"])
    assert [fields["more_not_logged"] for fields in told_of_left_out(caplog)] == [calls - logged]
    assert wire.server._methods._telling is None


async def test_a_call_whose_deadline_has_passed_is_not_begun(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiddenstate_server.interceptor._is_late", lambda context: True)
    monkeypatch.setattr(wire.server.repository, "language_model", raiser(RuntimeError("it was begun")))
    failed = await failure(wire.language_model.Predict(PredictRequest(text="I"), timeout=60))
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "before the server came to this call" in (failed.details() or "")


async def test_a_share_of_the_calls_is_logged(
    models_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "hiddenstate_server.interceptor")
    drawn = iter([0.1, 0.9, 0.2])
    monkeypatch.setattr("random.random", lambda: next(drawn))
    async with serving(models_dir, log_calls="all", log_sample=0.25) as wire:
        for _ in range(3):
            await wire.language_model.Predict(PredictRequest(text="I"))
    assert len([record for record in caplog.records if record.message == "call"]) == 2


def told_of_left_out(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Returns what the lines say that tell of calls without one."""
    return [record.__dict__["fields"] for record in caplog.records if record.message == "calls not logged"]


def raiser(error: Exception) -> Any:
    """Returns a function that raises."""

    def fail(*_: object) -> None:
        raise error

    return fail
