"""Predict, Generate and Score through the wire: their defaults, and what each kind of bad input is answered."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from bundles import language_model_bundle
from hiddenstate.v1.language_model_pb2 import GenerateRequest, GenerateResponse, PredictRequest, ScoreRequest, TokenIds
from hiddenstate_server.state_token import State, pack_state
from serving import Wire, failure, held, serving, until

TEXT = "I would like to thank"


async def predicts(wire: Wire) -> bool:
    """Tells whether the server still answers."""
    return len((await wire.language_model.Predict(PredictRequest(text=TEXT))).candidates) == 5


async def state_after(wire: Wire, text: str) -> bytes:
    """Returns the state after a text."""
    return (await wire.language_model.Predict(PredictRequest(text=text, return_state=True))).state


async def test_a_prediction_has_five_candidates_likeliest_first_and_says_what_it_cost(wire: Wire) -> None:
    response = await wire.language_model.Predict(PredictRequest(text=TEXT))
    log_probs = [candidate.log_prob for candidate in response.candidates]
    assert len(log_probs) == 5
    assert log_probs == sorted(log_probs, reverse=True)
    assert (response.model, response.model_version, response.state) == ("tiny-lm", "1", b"")
    assert response.usage.tokens_computed == 6  # five words and the beginning of the text


async def test_token_ids_are_answered_as_their_text_is(wire: Wire) -> None:
    tokens = (await wire.language_model.Score(ScoreRequest(text=TEXT))).tokens
    request = PredictRequest(tokens=TokenIds(ids=[token.token_id for token in tokens]))
    by_tokens = await wire.language_model.Predict(request)
    by_text = await wire.language_model.Predict(PredictRequest(text=TEXT))
    assert list(by_tokens.candidates) == list(by_text.candidates)


async def test_a_prefix_leaves_only_words_that_begin_with_it(wire: Wire) -> None:
    response = await wire.language_model.Predict(PredictRequest(text=TEXT, prefix="the", top_k=10))
    assert {candidate.word for candidate in response.candidates} == {"the", "then", "there", "they"}


async def test_generate_streams_words_and_the_last_one_says_why_the_text_ends(wire: Wire) -> None:
    request = GenerateRequest(text=TEXT, max_tokens=7, seed=3, return_state=True)
    responses = [response async for response in wire.language_model.Generate(request)]
    words = [response.word for response in responses]
    assert len([word for word in words if word]) == 7
    assert [response.finish_reason for response in responses[:-1]] == [0] * (len(responses) - 1)
    last = responses[-1]
    assert (last.finish_reason, last.seed) == (GenerateResponse.FINISH_REASON_LENGTH, 3)
    longer = await wire.language_model.Predict(PredictRequest(text=" ".join([TEXT, *words])))
    continued = await wire.language_model.Predict(PredictRequest(state=last.state))
    assert [c.word for c in continued.candidates] == [c.word for c in longer.candidates]


async def test_generate_gives_the_same_text_for_the_same_seed(wire: Wire) -> None:
    async def words(seed: int) -> list[str]:
        request = GenerateRequest(text=TEXT, max_tokens=30, seed=seed)
        return [response.word async for response in wire.language_model.Generate(request)]

    assert await words(1) == await words(1) != await words(2)


async def test_a_score_is_the_sum_over_its_tokens(wire: Wire) -> None:
    response = await wire.language_model.Score(ScoreRequest(text=TEXT))
    assert [token.token for token in response.tokens] == TEXT.split()
    assert response.log_prob == pytest.approx(sum(token.log_prob for token in response.tokens))


@pytest.mark.parametrize(
    ("request_", "code", "named"),
    [
        (PredictRequest(), grpc.StatusCode.INVALID_ARGUMENT, "text: is not set"),
        (PredictRequest(tokens=TokenIds(ids=[2, 4_000_000_000])), grpc.StatusCode.INVALID_ARGUMENT, "ids[1]"),
        (PredictRequest(text="word " * 100_000), grpc.StatusCode.INVALID_ARGUMENT, "100,000 tokens"),
        (PredictRequest(text=TEXT, top_k=0), grpc.StatusCode.INVALID_ARGUMENT, "top_k: is 0"),
        (PredictRequest(text=TEXT, top_k=1_000_000), grpc.StatusCode.INVALID_ARGUMENT, "top_k: is 1000000"),
        (PredictRequest(text=TEXT, state=b"x"), grpc.StatusCode.INVALID_ARGUMENT, "state: "),
        (PredictRequest(text=TEXT, model="nobody"), grpc.StatusCode.NOT_FOUND, "tiny-lm version 1"),
        (
            PredictRequest(text=TEXT, model_version="7"),
            grpc.StatusCode.NOT_FOUND,
            "model_version: tiny-lm has no version '7'; there is: 1",
        ),
        (PredictRequest(text=TEXT, model="tiny-encoder"), grpc.StatusCode.NOT_FOUND, "tiny-lm version 1"),
        (PredictRequest(text=TEXT, model="x" * 1_000_000), grpc.StatusCode.NOT_FOUND, "tiny-lm version 1"),
        (ScoreRequest(text=""), grpc.StatusCode.INVALID_ARGUMENT, "text: is empty"),
        (ScoreRequest(text=TEXT, state=b"x"), grpc.StatusCode.INVALID_ARGUMENT, "state: "),
        (GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, "text: is not set"),
        (GenerateRequest(text=TEXT, max_tokens=0), grpc.StatusCode.INVALID_ARGUMENT, "max_tokens: "),
        (GenerateRequest(text=TEXT, max_tokens=10_000), grpc.StatusCode.INVALID_ARGUMENT, "max_tokens: "),
        (GenerateRequest(text=TEXT, temperature=-1), grpc.StatusCode.INVALID_ARGUMENT, "temperature: "),
        (GenerateRequest(text=TEXT, temperature=float("nan")), grpc.StatusCode.INVALID_ARGUMENT, "temperature: "),
        (GenerateRequest(text=TEXT, top_k=0), grpc.StatusCode.INVALID_ARGUMENT, "top_k: "),
        (GenerateRequest(text=TEXT, top_k=1_000_000), grpc.StatusCode.INVALID_ARGUMENT, "top_k: is 1000000"),
        (GenerateRequest(text=TEXT, top_p=0), grpc.StatusCode.INVALID_ARGUMENT, "top_p: "),
        (GenerateRequest(text=TEXT, stop_words=["xyzzy"]), grpc.StatusCode.INVALID_ARGUMENT, "stop_words: "),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, Message) else None,
)
async def test_bad_input_is_refused_by_name_and_the_server_goes_on(
    wire: Wire, request_: Message, code: grpc.StatusCode, named: str
) -> None:
    methods: dict[type, Any] = {
        PredictRequest: wire.language_model.Predict,
        ScoreRequest: wire.language_model.Score,
        GenerateRequest: wire.language_model.Generate,
    }
    error = await failure(methods[type(request_)](request_))
    assert error.code() is code
    assert named in (error.details() or "")
    assert await predicts(wire)


@pytest.mark.parametrize("method", ["Predict", "Score", "Generate"])
@pytest.mark.parametrize("data", [b"\x1a\x02\xc3\x28", b"\xff\xff", b"\x1a\x7fcut"], ids=["not UTF-8", "noise", "cut"])
async def test_bytes_that_are_no_request_are_the_callers_fault(wire: Wire, method: str, data: bytes) -> None:
    path = f"/hiddenstate.v1.LanguageModelService/{method}"
    call: Any = wire.channel.unary_stream(path) if method == "Generate" else wire.channel.unary_unary(path)
    error = await failure(call(data))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not UTF-8" in (error.details() or "")
    assert await predicts(wire)


async def test_a_state_of_another_model_is_refused(wire: Wire, tmp_path: Path) -> None:
    language_model_bundle(tmp_path, seed=1)
    async with serving(tmp_path) as other:
        state = await state_after(other, TEXT)
    error = await failure(wire.language_model.Predict(PredictRequest(text=TEXT, state=state)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "state: " in (error.details() or "")
    assert await predicts(wire)


async def test_a_forged_state_is_refused_and_disturbs_no_neighbour(wire: Wire) -> None:
    model = wire.server.repository.language_model()
    values = np.full(model.bundle.language_model.state_size, 1e38, dtype=np.float32)  # type: ignore[union-attr]
    huge = State(values.tobytes(), 3)
    request = GenerateRequest(state=pack_state(huge, model.bundle.fingerprint), top_k=1)
    with held(model) as gate:
        first = asyncio.ensure_future(predicts(wire))
        await gate.reached()
        neighbour = asyncio.ensure_future(predicts(wire))
        error = await failure(wire.language_model.Generate(request))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "state: does not hold a state of this model" in (error.details() or "")
        gate.open()
        assert await first
        assert await neighbour


async def test_a_state_that_was_cut_is_refused(wire: Wire) -> None:
    state = await state_after(wire, TEXT)
    for length in (1, 10, len(state) // 2, len(state) - 1):
        error = await failure(wire.language_model.Predict(PredictRequest(text=TEXT, state=state[:length])))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await predicts(wire)


async def test_a_state_with_any_one_bit_flipped_is_refused(wire: Wire) -> None:
    state = await state_after(wire, TEXT)
    # Every bit of the first and last bytes, where the header and the checksum are, and one in every 37 of the rest.
    bits = {*range(400), *range(400, 8 * len(state) - 200, 37), *range(8 * len(state) - 200, 8 * len(state))}
    for bit in bits:
        damaged = bytearray(state)
        damaged[bit // 8] ^= 1 << bit % 8
        error = await failure(wire.language_model.Predict(PredictRequest(text="word", state=bytes(damaged))))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, bit
    assert await predicts(wire)


async def test_a_deadline_that_has_passed_costs_the_model_nothing(wire: Wire) -> None:
    error = await failure(wire.language_model.Predict(PredictRequest(text=TEXT), timeout=-1))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert wire.metric("hiddenstate_tokens_computed_total", model="tiny-lm", version="1") == 0
    assert await predicts(wire)


async def test_a_deadline_that_passes_in_the_queue_drops_the_request(one_runner: Wire) -> None:
    wire = one_runner
    model = wire.server.repository.language_model()
    with held(model) as gate:
        first = asyncio.ensure_future(wire.language_model.Predict(PredictRequest(text=TEXT)))
        await gate.reached()
        second = wire.language_model.Predict(PredictRequest(text="The car"), timeout=0.5)
        await until(lambda: model.scheduler.waiting_requests == 2)
        error = await failure(second)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # The caller's clock and the server's end at almost the same time; whichever is first counts.
        codes = ("DEADLINE_EXCEEDED", "CANCELLED")
        await until(
            lambda: sum(wire.metric("hiddenstate_requests_total", method="Predict", code=code) for code in codes) == 1
        )
        gate.open()
        await first
    await until(lambda: model.scheduler.waiting_requests == 0)
    computed = {"model": "tiny-lm", "version": "1", "stage": "recurrent"}
    assert wire.metric("hiddenstate_batch_tokens_total", **computed) == 6  # the first one's
    assert await predicts(wire)


async def test_a_cancelled_generation_stops_computing(wire: Wire) -> None:
    model = wire.server.repository.language_model()
    call = wire.language_model.Generate(GenerateRequest(text=TEXT, max_tokens=1000, temperature=0))
    await call.read()
    with held(model) as gate:
        await gate.reached()
        call.cancel()
        await until(lambda: wire.metric("hiddenstate_requests_total", method="Generate", code="CANCELLED") == 1)
    await until(lambda: model.scheduler.waiting_requests == 0)
    await until(lambda: wire.server.running.count == 0)
    assert wire.metric("hiddenstate_requests_in_flight", method="Generate") == 0
    assert await predicts(wire)


async def test_a_message_over_the_limit_is_refused(wire: Wire) -> None:
    error = await failure(wire.language_model.Predict(PredictRequest(text="x" * 5_000_000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4194304" in (error.details() or "")
    assert await predicts(wire)


async def test_a_full_queue_is_told_at_once(models_dir: Path) -> None:
    async with serving(models_dir, max_waiting_tokens=8) as wire:
        with held(wire.server.repository.language_model()) as gate:
            first = asyncio.ensure_future(wire.language_model.Predict(PredictRequest(text=TEXT)))
            await gate.reached()
            error = await failure(wire.language_model.Predict(PredictRequest(text="The car")))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            of_model = {"model": "tiny-lm", "version": "1", "reason": "queue_full"}
            assert wire.metric("hiddenstate_queue_refused_total", **of_model) == 1
            assert wire.metric("hiddenstate_requests_refused_total", method="Predict", reason="queue_full") == 1
            gate.open()
            await first
        assert await predicts(wire)


async def test_a_model_that_fails_is_told_without_its_innards(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = wire.server.repository.language_model().scheduler
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_step", lambda batch: 1 / 0)
        error = await failure(wire.language_model.Predict(PredictRequest(text=TEXT)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "division" not in (error.details() or "")
    assert await predicts(wire)
