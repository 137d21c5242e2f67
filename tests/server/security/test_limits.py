"""Limits of one caller: with a clock of the test's own, and on the wire."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from hiddenstate.v1.language_model_pb2 import (
    GenerateRequest,
    PredictRequest,
    PredictStreamRequest,
    StreamedPredictRequest,
)
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest
from hiddenstate_server.security.access import _MAX_CALLERS, Access
from hiddenstate_server.security.ledger import OwnLedger
from hiddenstate_server.security.limits import Bucket, Limits, address_of
from serving import failure, serving, until

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
RARELY = 0.001  # a second: nothing more within a test


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_what_it_holds_and_then_so_much_a_second() -> None:
    clock = Clock()
    bucket, cell = Bucket(4.0, clock), [0.0, 0.0]
    for _ in range(4):
        assert bucket.wait_s(cell, 1) == 0
        bucket.take(cell, 1)
    assert bucket.wait_s(cell, 1) == 0.25
    clock.now += 0.25
    assert bucket.wait_s(cell, 1) == 0
    bucket.take(cell, 1)
    clock.now += 1000
    assert bucket.wait_s(cell, 4) == 0
    bucket.take(cell, 4)
    assert bucket.wait_s(cell, 1) == 0.25  # a long silence saves up no more than a second's worth


def test_more_than_a_seconds_worth_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    clock = Clock()
    bucket, cell = Bucket(10.0, clock), [0.0, clock.now]
    bucket.take(cell, 5)
    assert bucket.wait_s(cell, 30) == 0.5
    clock.now += 0.5
    assert bucket.wait_s(cell, 30) == 0
    bucket.take(cell, 30)
    assert bucket.wait_s(cell, 1) == pytest.approx(2.1)


def test_less_than_one_call_a_second_is_one_now_and_then() -> None:
    clock = Clock()
    bucket, cell = Bucket(0.5, clock), [0.0, 0.0]
    assert bucket.wait_s(cell, 1) == 0
    bucket.take(cell, 1)
    assert bucket.wait_s(cell, 1) == 2.0


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:5123", "10.0.0.7"),
        ("ipv6:[::1]:5123", "::/64"),
        ("ipv6:%5B2001:db8:1:2:3::9%5D:5123", "2001:db8:1:2::/64"),
        ("ipv6:[fe80::1%25eth0]:5123", "fe80::/64"),
        ("ipv6:[::ffff:10.0.0.7]:5123", "10.0.0.7"),
        ("unix:/run/socket", "unix"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_caller_is_its_address_without_the_port(peer: str, address: str) -> None:
    assert address_of(peer) == address


async def test_calls_that_are_too_many_are_refused_with_a_hint(models_dir: Path) -> None:
    async with serving(models_dir, caller_calls_per_s=RARELY) as wire:
        await wire.language_model.Predict(PredictRequest(text="I would"))
        for call in (
            wire.language_model.Predict(PredictRequest(text="I")),
            wire.language_model.Generate(GenerateRequest(text="I")),
            wire.sentence_encoder.Encode(EncodeRequest(sentences=["The"])),
            wire.inference.ModelInfer(ModelInferRequest(model_name="tiny-lm")),
        ):
            error = await failure(call)
            assert error.code() is EXHAUSTED
            assert "a caller (127.0.0.1) may make 0.001 calls a second (--caller-calls-per-s)" in (
                error.details() or ""
            )
            hint = dict(error.trailing_metadata() or ())["grpc-retry-pushback-ms"]
            assert 900_000 < int(hint) <= 1_000_000


async def test_requests_of_a_stream_count_as_calls(models_dir: Path) -> None:
    async with serving(models_dir, caller_calls_per_s=RARELY) as wire:
        call: Any = wire.language_model.PredictStream()
        for number in (1, 2):
            requests = [StreamedPredictRequest(request_id=number, predict=PredictRequest(text="The"))]
            await call.write(PredictStreamRequest(requests=requests))
            reply = (await call.read()).responses[0]
            assert reply.error.code == (0, EXHAUSTED.value[0])[number - 1]
        assert reply.error.retry_after_ms > 900_000
        stream: Any = wire.inference.ModelStreamInfer()
        await stream.write(ModelInferRequest(model_name="tiny-lm"))
        assert "calls a second" in (await stream.read()).error_message
        await call.done_writing()
        await stream.done_writing()


async def test_tokens_that_are_too_many_are_refused_wherever_they_come_from(models_dir: Path) -> None:
    async with serving(models_dir, caller_tokens_per_s=RARELY) as wire:
        call: Any = wire.language_model.PredictStream()
        # The first is more than the bucket holds, and leaves a debt. All are of one context, so that the second begins
        # when the first is answered.
        requests = [
            StreamedPredictRequest(request_id=number, context_id=1, predict=PredictRequest(text="I would like"))
            for number in (1, 2, 3)
        ]
        await call.write(PredictStreamRequest(requests=requests))
        replies: dict[int, Any] = {}
        while len(replies) < 3:
            replies |= {reply.request_id: reply for reply in (await call.read()).responses}
        assert [replies[number].error.code for number in (1, 2, 3)] == [0, EXHAUSTED.value[0], EXHAUSTED.value[0]]
        await call.done_writing()
        for made in (
            wire.language_model.Predict(PredictRequest(text="to")),
            wire.language_model.Predict(PredictRequest(text="to " * 2000)),
            wire.language_model.Generate(GenerateRequest(text="I")),
            wire.sentence_encoder.Encode(EncodeRequest(sentences=["The", "car"])),
        ):
            error = await failure(made)
            assert error.code() is EXHAUSTED
            assert "tokens a second (--caller-tokens-per-s)" in (error.details() or "")


async def test_streams_that_are_too_many_are_refused_until_one_ends(models_dir: Path) -> None:
    async with serving(models_dir, caller_streams=2) as wire:
        streams: list[Any] = [wire.language_model.PredictStream(), wire.sentence_encoder.EncodeStream()]
        access = wire.server._access
        assert access
        await until(lambda: sum(len(caller._open) for caller in access._callers.values()) == 2)
        error = await failure(wire.inference.ModelStreamInfer())
        assert error.code() is EXHAUSTED
        assert "has 2 streams open, as many as it may (--caller-streams)" in (error.details() or "")
        for stream in streams:
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK
        generated = [each async for each in wire.language_model.Generate(GenerateRequest(text="I", max_tokens=2))]
        assert generated


async def test_addresses_that_come_and_go_take_bounded_memory_and_open_streams_are_kept() -> None:
    access = Access(None, Limits(calls_per_s=1), OwnLedger())
    first = access._callers["busy"] = access._new("busy")
    ended = asyncio.Event()
    stream = asyncio.create_task(first.stream(ended.wait))
    await until(lambda: first.has_streams)
    for number in range(_MAX_CALLERS + 50):
        access._callers[str(number)] = access._new(str(number))
    assert len(access._callers) <= _MAX_CALLERS + 1
    assert access._callers["busy"] is first
    ended.set()
    assert await stream


async def test_without_limits_and_keys_nothing_stands_in_the_way(models_dir: Path) -> None:
    async with serving(models_dir) as wire:
        assert wire.server._access is None
