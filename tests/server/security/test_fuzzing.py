"""A short run of what `tests/fuzz/run.py` does at length."""

from typing import Any

import grpc
import pytest

from fuzz.attack import attack_calls, attack_frames
from fuzz.children import attack_files
from fuzz.files import ATTACKS
from hiddenstate.v1.language_model_pb2 import PredictRequest
from serving import Wire, failure


async def test_odd_and_damaged_messages_are_answered_without_internal_errors(wire: Wire) -> None:
    findings = await attack_calls(wire, count=1500, seed=6)
    assert findings.faults == []
    answered = {outcome.split()[1] for outcome in findings.codes}
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= answered  # else the inputs reach nothing
    assert len((await wire.language_model.Predict(PredictRequest(text="I would"))).candidates) == 5
    assert wire.server.running.count == 0


@pytest.mark.parametrize(
    "method",
    [
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ModelReady",
        "/grpc.health.v1.Health/Check",
    ],
)
async def test_a_probe_that_cannot_be_read_is_the_callers_fault(wire: Wire, method: str) -> None:
    call: Any = wire.channel.unary_unary(method)
    error = await failure(call(b"\x0a"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request is not the message that this method takes" in (error.details() or "")


async def test_frames_that_are_no_http2_end_their_connection_and_nothing_else(wire: Wire) -> None:
    await attack_frames(wire, count=40, seed=6)
    assert len((await wire.language_model.Predict(PredictRequest(text="I would"))).candidates) == 5


@pytest.mark.parametrize("kind", ATTACKS)
def test_files_that_are_nearly_right_or_damaged_are_refused_and_neither_crash_nor_hang(kind: str) -> None:
    findings = attack_files(kind, count=200, seed=6)
    assert findings.faults == []
    assert len(findings.codes) > 1  # else the inputs are all alike
