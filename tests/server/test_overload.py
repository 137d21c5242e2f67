"""What is refused because there is too much of it says when to come again, through the wire."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from hiddenstate.v1.language_model_pb2 import PredictRequest, PredictStreamRequest, StreamedPredictRequest
from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceStub
from hiddenstate.v1.model_pb2 import ListModelsRequest
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from hiddenstate.v1.usage_pb2 import RequestError
from hiddenstate_server.inference.open_inference_pb2 import ServerReadyRequest
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.sentence_encoder import SentenceEncoder
from serving import WAIT_S, Gate, Wire, failure, held, serving, until

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
PUSHBACK = "grpc-retry-pushback-ms"
TEXT = "I would like to thank"  # 6 tokens with the one that begins a text


def pushback_of(error: grpc.aio.AioRpcError) -> str | None:
    """Returns what gRPC's clients read of when to try again."""
    return next((str(value) for key, value in error.trailing_metadata() or () if key == PUSHBACK), None)


async def refused_on_a_stream(wire: Wire, predict: PredictRequest) -> RequestError:
    """Returns the error of a streamed request."""
    call: Any = wire.language_model.PredictStream()
    await call.write(PredictStreamRequest(requests=[StreamedPredictRequest(request_id=1, predict=predict)]))
    (reply,) = (await call.read()).responses
    call.cancel()
    assert reply.HasField("error")
    return RequestError.FromString(reply.error.SerializeToString())


@contextmanager
def seen_to_take(model: LanguageModel | SentenceEncoder, seconds_per_token: float) -> Iterator[None]:
    """Makes a model's queue look as if it had been seen at that speed."""
    admission = model.scheduler._admission
    admission._seconds, admission._tokens = seconds_per_token, 1.0
    admission._seen_at = time.monotonic()
    yield


async def test_a_full_queue_tells_calls_and_streams_when_to_come_again(models_dir: Path) -> None:
    async with serving(models_dir, runners=1, max_waiting_tokens=10) as wire:
        model = wire.server.repository.language_model()
        with held(model) as gate, seen_to_take(model, seconds_per_token=0.25):
            running = wire.language_model.Predict(PredictRequest(text=TEXT))
            await gate.reached()
            called = await failure(wire.language_model.Predict(PredictRequest(text=TEXT)))
            streamed = await refused_on_a_stream(wire, PredictRequest(text=TEXT))
        assert (called.code(), pushback_of(called)) == (EXHAUSTED, "500")  # two tokens too many
        assert (streamed.code, streamed.retry_after_ms) == (EXHAUSTED.value[0], 500)
        assert "the queue holds 6 tokens and takes 10; this request has 6" in streamed.message
        assert called.details() == streamed.message
        await running


async def test_who_would_wait_in_vain_is_told_when_it_would_not(models_dir: Path) -> None:
    async with serving(models_dir, runners=1, max_batch=1) as wire:
        model = wire.server.repository.language_model()
        with held(model) as gate, seen_to_take(model, seconds_per_token=100.0):
            running = [wire.language_model.Predict(PredictRequest(text=TEXT)) for _ in range(2)]
            await both_run(wire, gate)
            called = await failure(wire.language_model.Predict(PredictRequest(text=TEXT), timeout=60))
        assert called.code() is EXHAUSTED
        # It has not been looked at yet: a token of it, and one of each of the others that it would wait for.
        assert "about 300 s of work, and this request has 60 s" in (called.details() or "")
        assert 240_000 < int(pushback_of(called) or 0) < 300_000
        for each in running:
            await each


async def test_requests_of_a_stream_that_would_wait_in_vain_cost_no_more_than_their_refusal(models_dir: Path) -> None:
    async with serving(models_dir, runners=1, max_batch=1) as wire:
        model = wire.server.repository.language_model()
        call: Any = wire.language_model.PredictStream()
        predict = PredictRequest(text=TEXT)
        with held(model) as gate, seen_to_take(model, seconds_per_token=100.0):
            running = [wire.language_model.Predict(predict) for _ in range(2)]
            await both_run(wire, gate)
            requests = [
                StreamedPredictRequest(request_id=n, context_id=n, predict=predict, timeout_ms=60_000 + n // 2 * 30_000)
                for n in range(1, 5)
            ]
            await call.write(PredictStreamRequest(requests=requests))
            refused: dict[int, RequestError] = {}
            while len(refused) < 4:
                refused |= {reply.request_id: reply.error for reply in (await call.read()).responses}
            # A refused request leaves no context behind.
            assert wire.metric("hiddenstate_stream_contexts") == 0
        assert {error.code for error in refused.values()} == {EXHAUSTED.value[0]}
        assert [refused[n].message.partition("this request ")[2].partition(":")[0] for n in range(1, 5)] == [
            "has 60 s",
            "has 90 s",
            "has 90 s",
            "has 120 s",
        ]
        assert all("about 300 s of work" in error.message for error in refused.values())
        assert 240_000 < refused[1].retry_after_ms < 300_000
        labels = {"method": "PredictStream", "reason": "queue_slow"}
        assert wire.metric("hiddenstate_requests_refused_total", **labels) == 4
        for each in running:
            await each
        await call.write(PredictStreamRequest(requests=[StreamedPredictRequest(request_id=9, predict=predict)]))
        assert (await call.read()).responses[0].response.candidates
        call.cancel()


async def test_a_long_text_counts_for_no_more_than_what_is_read_of_it(models_dir: Path) -> None:
    text, long = " ".join(["word"] * 64), " ".join(["word"] * 100_000)
    async with serving(models_dir, runners=1, max_batch=1) as wire:
        model = wire.server.repository.sentence_encoder()
        for _ in range(100):  # by now it is known how many tokens so many characters have
            await wire.sentence_encoder.Encode(EncodeRequest(sentences=[text]))
        with held(model) as gate, seen_to_take(model, seconds_per_token=0.1):
            running = wire.sentence_encoder.Encode(EncodeRequest(sentences=["word"]))
            await gate.reached()
            refused = await failure(wire.sentence_encoder.Encode(EncodeRequest(sentences=[long]), timeout=9))
            taken = wire.sentence_encoder.Encode(EncodeRequest(sentences=[long]), timeout=60)
            await until(lambda: model.scheduler.waiting_requests == 2)
        assert refused.code() is EXHAUSTED
        assert "about 6.6 s of work, and this request has 9 s" in (refused.details() or "")
        assert (await taken).truncated == 1
        await running


async def test_what_will_never_fit_has_no_time_to_come_again(models_dir: Path) -> None:
    async with serving(models_dir, max_waiting_tokens=5) as wire:
        called = await failure(wire.language_model.Predict(PredictRequest(text=TEXT)))
        streamed = await refused_on_a_stream(wire, PredictRequest(text=TEXT))
    assert (called.code(), pushback_of(called)) == (EXHAUSTED, None)
    assert (streamed.code, streamed.retry_after_ms) == (EXHAUSTED.value[0], 0)
    assert "send it in smaller parts" in streamed.message


async def test_other_errors_have_no_time_to_come_again(wire: Wire) -> None:
    called = await failure(wire.language_model.Predict(PredictRequest()))
    assert (called.code(), pushback_of(called)) == (grpc.StatusCode.INVALID_ARGUMENT, None)
    assert (await refused_on_a_stream(wire, PredictRequest())).retry_after_ms == 0


async def test_one_call_too_many_is_refused_and_streams_and_probes_are_not_counted(models_dir: Path) -> None:
    async with serving(models_dir, runners=1, max_concurrent_calls=2) as wire:
        call: Any = wire.language_model.PredictStream()
        with held(wire.server.repository.language_model()) as gate:
            running = [wire.language_model.Predict(PredictRequest(text=TEXT)) for _ in range(2)]
            await both_run(wire, gate)
            for one_more in (
                wire.language_model.Predict(PredictRequest(text=TEXT)),
                wire.sentence_encoder.Encode(EncodeRequest(sentences=[TEXT])),
                wire.models.ListModels(ListModelsRequest()),
            ):
                refused = await failure(one_more)
                assert (refused.code(), pushback_of(refused)) == (EXHAUSTED, "100")
                assert "2 calls, as many as it may (--max-concurrent-calls)" in (refused.details() or "")
            await call.write(PredictStreamRequest(requests=[StreamedPredictRequest(predict=PredictRequest(text=TEXT))]))
            assert (await wire.inference.ServerReady(ServerReadyRequest())).ready
        assert (await call.read()).responses[0].response.candidates
        call.cancel()
        for each in running:
            assert (await each).candidates
        # There is room again.
        assert (await wire.language_model.Predict(PredictRequest(text=TEXT))).candidates


async def test_calls_that_fail_or_are_cancelled_give_their_places_back(models_dir: Path) -> None:
    async with serving(models_dir, runners=1, max_concurrent_calls=1) as wire:
        for _ in range(3):
            await failure(wire.language_model.Predict(PredictRequest()))
        with held(wire.server.repository.language_model()) as gate:
            leaves = wire.language_model.Predict(PredictRequest(text=TEXT))
            await gate.reached()
            leaves.cancel()
            await until(lambda: not wire.server.running.count)
        assert (await wire.language_model.Predict(PredictRequest(text=TEXT))).candidates


async def test_one_stream_too_many_is_refused_and_an_ended_one_gives_its_place_back(models_dir: Path) -> None:
    request = PredictStreamRequest(requests=[StreamedPredictRequest(predict=PredictRequest(text=TEXT))])
    async with serving(models_dir, max_streams=1) as wire:
        first: Any = wire.language_model.PredictStream()
        await first.write(request)
        assert (await first.read()).responses[0].response.candidates
        one_more: Any = wire.sentence_encoder.EncodeStream()
        refused = await failure(one_more.read())
        assert (refused.code(), pushback_of(refused)) == (EXHAUSTED, "100")
        assert "1 open streams, as many as it may (--max-streams)" in (refused.details() or "")
        assert (await wire.language_model.Predict(PredictRequest(text=TEXT))).candidates
        first.cancel()
        await until(lambda: not wire.server.running.count)
        again: Any = wire.language_model.PredictStream()
        await again.write(request)
        assert (await again.read()).responses[0].response.candidates
        again.cancel()


async def both_run(wire: Wire, gate: Gate) -> None:
    """Returns when one call stands before the gate and another behind it."""
    await gate.reached()
    await until(lambda: wire.metric("hiddenstate_requests_in_flight", method="Predict") == 2)


async def test_calls_that_nobody_has_looked_at_are_bounded_and_the_rest_told_at_once(models_dir: Path) -> None:
    async with serving(models_dir, max_pending_calls=8) as wire:
        with grpc.insecure_channel(str(wire.server.address)) as channel:
            predict = LanguageModelServiceStub(channel).Predict
            await asyncio.to_thread(predict, PredictRequest(text=TEXT), timeout=WAIT_S)
            calls = [predict.future(PredictRequest(text=TEXT), timeout=WAIT_S) for _ in range(40)]
            # The event loop stands still: what is told now is told by gRPC.
            end = time.monotonic() + WAIT_S / 4
            while sum(call.done() for call in calls) < 30 and time.monotonic() < end:
                time.sleep(0.01)  # noqa: ASYNC251
            codes = [call.code() for call in calls if call.done()]
            rest = [call for call in calls if not call.done()]
            for call in rest:
                await asyncio.to_thread(call.result)
    assert set(codes) == {grpc.StatusCode.CANCELLED}
    assert len(rest) == 10  # one is above the first of gRPC's limits, and one has been handed over to be looked at
