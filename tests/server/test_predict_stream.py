"""PredictStream through the wire: contexts, order, bounds, errors of single requests, and streams that go away."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from bundles import language_model_bundle
from hiddenstate.v1.language_model_pb2 import (
    PredictRequest,
    PredictStreamRequest,
    PredictStreamResponse,
    StreamedPredictRequest,
    StreamedPredictResponse,
    TokenIds,
)
from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceStub
from hiddenstate.v1.model_pb2 import ListModelsRequest
from hiddenstate_server import streams
from hiddenstate_server.sequence import Predicting
from serving import WAIT_S, Wire, failure, held, serving, until

TEXT = "I would like to thank"
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
LATE = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]


def ask(request_id: int, context_id: int, text: str, *, close: bool = False, **more: Any) -> StreamedPredictRequest:
    """Returns a request that appends a text."""
    predict = PredictRequest(text=text, **more)
    return StreamedPredictRequest(request_id=request_id, context_id=context_id, predict=predict, close_context=close)


def limited(request: StreamedPredictRequest, *, timeout_ms: int) -> StreamedPredictRequest:
    """Returns a request with a time limit of its own."""
    request.timeout_ms = timeout_ms
    return request


class Caller:
    """The caller's end of a stream."""

    def __init__(self, wire: Wire, channel: grpc.aio.Channel | None = None) -> None:
        stub = LanguageModelServiceStub(channel) if channel else wire.language_model
        self.call = stub.PredictStream()

    async def send(self, *requests: StreamedPredictRequest) -> None:
        """Sends requests in one message."""
        await self.call.write(PredictStreamRequest(requests=requests))

    async def message(self) -> Sequence[StreamedPredictResponse]:
        """Returns the replies of the next message; none at the end of the stream."""
        async with asyncio.timeout(WAIT_S):
            message = await self.call.read()
        return message.responses if isinstance(message, PredictStreamResponse) else []

    async def replies(self, count: int) -> dict[int, StreamedPredictResponse]:
        """Returns that many replies by request id."""
        replies: list[StreamedPredictResponse] = []
        while len(replies) < count:
            message = await self.message()
            assert message, "the stream ended early"
            replies += message
        assert len(replies) == count
        return {reply.request_id: reply for reply in replies}

    async def reply(self) -> StreamedPredictResponse:
        """Returns the only reply that is due."""
        (reply,) = (await self.replies(1)).values()
        return reply


@pytest_asyncio.fixture
async def caller(wire: Wire) -> AsyncIterator[Caller]:
    """An open stream; at the end of the test nothing of it may be left."""
    caller = Caller(wire)
    yield caller
    caller.call.cancel()
    await until(lambda: wire.server.running.count == 0)
    for model in wire.server.repository.models():
        await until(lambda model=model: model.scheduler.waiting_requests == 0)
    assert wire.metric("hiddenstate_requests_in_flight", method="PredictStream") == 0
    assert wire.metric("hiddenstate_streams_open", method="PredictStream") == 0


def words(reply: StreamedPredictResponse) -> list[str]:
    """Returns the candidates' words."""
    assert reply.WhichOneof("result") == "response", reply.error.message
    return [candidate.word for candidate in reply.response.candidates]


async def words_after(wire: Wire, text: str) -> list[str]:
    """Returns what the unary call answers."""
    response = await wire.language_model.Predict(PredictRequest(text=text))
    return [candidate.word for candidate in response.candidates]


async def test_a_request_whose_time_passes_is_answered_so_and_costs_nothing(one_runner: Wire) -> None:
    caller = Caller(one_runner)
    with held(one_runner.server.repository.language_model()) as gate:
        await caller.send(ask(1, 0, TEXT))
        await gate.reached()
        await caller.send(limited(ask(2, 0, "The car"), timeout_ms=1), limited(ask(3, 0, "The"), timeout_ms=60_000))
        await until(lambda: one_runner.metric("hiddenstate_requests_in_flight", method="PredictStream") == 3)
        passed = time.monotonic() + 0.001
        await until(lambda: time.monotonic() > passed)
    replies = await caller.replies(3)
    assert replies[2].error.code == LATE
    assert words(replies[3]) == await words_after(one_runner, "The")
    labels = {"model": "tiny-lm", "version": "1"}
    assert one_runner.metric("hiddenstate_requests_dropped_total", reason="deadline", **labels) == 1
    caller.call.cancel()


async def test_time_limits_count_from_when_a_request_was_read_also_behind_others_of_its_context(
    one_runner: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Requests look as if they had been read two minutes ago, and those of the context begin only when the gate opens.
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=lambda: time.monotonic() - 120))
    caller = Caller(one_runner)
    with held(one_runner.server.repository.language_model()) as gate:
        await caller.send(
            ask(1, 7, "The car"),
            limited(ask(2, 7, "was"), timeout_ms=60_000),
            limited(ask(3, 7, "new"), timeout_ms=600_000),
        )
        await gate.reached()
        await until(lambda: one_runner.metric("hiddenstate_requests_in_flight", method="PredictStream") == 3)
    replies = await caller.replies(3)
    assert replies[2].error.code == LATE
    assert words(replies[3]) == await words_after(one_runner, "The car new")
    caller.call.cancel()


async def test_requests_of_one_context_are_answered_in_their_order(wire: Wire, caller: Caller) -> None:
    text = TEXT.split()
    await caller.send(*(ask(number, 1, word) for number, word in enumerate(text)))
    replies = await caller.replies(len(text))
    for number in range(len(text)):
        assert words(replies[number]) == await words_after(wire, " ".join(text[: number + 1]))


async def test_contexts_do_not_mix(wire: Wire, caller: Caller) -> None:
    texts = {1: "I would like", 2: "The car was", 3: "Some of the"}
    for position in range(3):
        await caller.send(
            *(ask(10 * context + position, context, text.split()[position]) for context, text in texts.items())
        )
    replies = await caller.replies(9)
    for context, text in texts.items():
        assert words(replies[10 * context + 2]) == await words_after(wire, text)


async def test_context_zero_remembers_nothing(wire: Wire, caller: Caller) -> None:
    await caller.send(ask(1, 0, TEXT), ask(2, 0, "The car"))
    replies = await caller.replies(2)
    assert words(replies[1]) == await words_after(wire, TEXT)
    assert words(replies[2]) == await words_after(wire, "The car")


async def test_a_closed_context_begins_anew(wire: Wire, caller: Caller) -> None:
    await caller.send(ask(1, 7, TEXT, close=True), ask(2, 7, "The car"))
    replies = await caller.replies(2)
    assert words(replies[1]) == await words_after(wire, TEXT)
    assert words(replies[2]) == await words_after(wire, "The car")


async def test_a_request_that_only_closes_is_answered_without_result_after_those_before_it(caller: Caller) -> None:
    only_close = StreamedPredictRequest(request_id=2, context_id=7, close_context=True)
    await caller.send(ask(1, 7, TEXT), only_close)
    replies = await caller.replies(2)
    assert list(replies) == [1, 2]
    assert replies[2].WhichOneof("result") is None


async def test_a_given_state_replaces_what_the_context_remembers(wire: Wire, caller: Caller) -> None:
    state = (await wire.language_model.Predict(PredictRequest(text="The car", return_state=True))).state
    await caller.send(ask(1, 7, TEXT), ask(2, 7, "was", state=state))
    assert words((await caller.replies(2))[2]) == await words_after(wire, "The car was")


async def test_a_context_is_as_it_was_before_a_request_that_failed(wire: Wire, caller: Caller) -> None:
    await caller.send(ask(1, 7, "The car"), ask(2, 7, "was", top_k=0), ask(3, 7, "new"))
    replies = await caller.replies(3)
    assert (replies[2].error.code, replies[2].error.message[:6]) == (INVALID, "top_k:")
    assert words(replies[3]) == await words_after(wire, "The car new")


async def test_a_prefix_that_no_word_begins_with_appends_all_the_same(wire: Wire, caller: Caller) -> None:
    await caller.send(ask(1, 7, "The", prefix="xyzzy"), ask(2, 7, "car"))
    replies = await caller.replies(2)
    assert words(replies[1]) == []
    assert words(replies[2]) == await words_after(wire, "The car")


async def test_a_context_may_begin_before_its_first_word(wire: Wire, caller: Caller) -> None:
    await caller.send(ask(1, 7, ""), ask(2, 7, "The car"))
    replies = await caller.replies(2)
    assert words(replies[1]) == await words_after(wire, "")
    assert words(replies[2]) == await words_after(wire, "The car")


@pytest.mark.parametrize(
    ("request_", "code", "named"),
    [
        (StreamedPredictRequest(request_id=1, predict=PredictRequest()), INVALID, "text: is not set"),
        (ask(1, 0, "word", model="nobody"), NOT_FOUND, "nobody"),
        (ask(1, 5, "word", top_k=0), INVALID, "top_k: "),
        (ask(1, 5, "word", state=b"x"), INVALID, "state: "),
        (StreamedPredictRequest(request_id=1, context_id=5), INVALID, "predict: is not set"),
        (StreamedPredictRequest(request_id=1), INVALID, "predict: is not set"),
    ],
    ids=["not set", "model", "top_k", "state", "nothing", "nothing at all"],
)
async def test_the_stream_goes_on_after_a_request_that_is_refused(
    wire: Wire, caller: Caller, request_: StreamedPredictRequest, code: int, named: str
) -> None:
    await caller.send(request_)
    reply = await caller.reply()
    assert (reply.request_id, reply.error.code) == (1, code)
    assert named in reply.error.message
    await caller.send(ask(2, 5, TEXT))
    assert words(await caller.reply()) == await words_after(wire, TEXT)


async def test_a_context_belongs_to_one_model(models_dir: Path, tmp_path: Path) -> None:
    language_model_bundle(tmp_path, name="one")
    language_model_bundle(tmp_path, name="two", seed=1)
    async with serving(tmp_path) as wire:
        caller = Caller(wire)
        await caller.send(ask(1, 1, "The", model="one"), ask(2, 1, "car", model="two"), ask(3, 1, "car"))
        replies = await caller.replies(3)
        assert (replies[2].error.code, "belongs to one version 1" in replies[2].error.message) == (INVALID, True)
        assert replies[3].response.model == "one"
        caller.call.cancel()


async def test_an_id_that_is_still_in_flight_is_refused(wire: Wire, caller: Caller) -> None:
    with held(wire.server.repository.language_model()) as gate:
        await caller.send(ask(1, 0, TEXT))
        await gate.reached()
        await caller.send(ask(1, 0, "The car"))
        reply = await caller.reply()
        assert (reply.error.code, "request_id: " in reply.error.message) == (INVALID, True)
    assert words(await caller.reply()) == await words_after(wire, TEXT)
    await caller.send(ask(1, 0, "The car"))  # now it is free again
    assert words(await caller.reply()) == await words_after(wire, "The car")


async def test_replies_that_are_ready_together_leave_in_one_message(wire: Wire, caller: Caller) -> None:
    with held(wire.server.repository.language_model()) as gate:
        await caller.send(*(ask(number, 0, "The") for number in range(20)))
        await gate.reached()
        await until(lambda: wire.metric("hiddenstate_requests_in_flight", method="PredictStream") == 20)
    messages, replies = 0, 0
    while replies < 20:
        replies += len(await caller.message())
        messages += 1
    assert messages < 5


async def test_more_contexts_than_may_be_are_refused_until_one_is_closed(models_dir: Path) -> None:
    async with serving(models_dir, max_stream_contexts=2) as wire:
        caller = Caller(wire)
        await caller.send(*(ask(number, number, "The") for number in (1, 2, 3)))
        replies = await caller.replies(3)
        assert (replies[3].error.code, "--max-stream-contexts" in replies[3].error.message) == (EXHAUSTED, True)
        refused = {"method": "PredictStream", "reason": "too_many_contexts"}
        assert wire.metric("hiddenstate_requests_refused_total", **refused) == 1
        assert wire.metric("hiddenstate_stream_contexts") == 2
        await caller.send(ask(4, 1, "car", close=True), ask(5, 3, "The"))
        assert words((await caller.replies(2))[5]) == await words_after(wire, "The")
        await caller.send(ask(7, 3, "car", close=True))
        await caller.replies(1)
        assert wire.metric("hiddenstate_stream_contexts") == 1
        caller.call.cancel()
        await until(lambda: wire.metric("hiddenstate_stream_contexts") == 0)


async def test_contexts_whose_first_request_failed_take_no_room(models_dir: Path) -> None:
    async with serving(models_dir, max_stream_contexts=2) as wire:
        caller = Caller(wire)
        await caller.send(*(ask(number, number, "The", top_k=0) for number in (1, 2)))
        await caller.replies(2)
        await caller.send(*(ask(number, number, "The") for number in (3, 4)))
        assert all(words(reply) for reply in (await caller.replies(2)).values())
        caller.call.cancel()


async def test_no_more_is_read_than_may_be_pending(models_dir: Path) -> None:
    async with serving(models_dir, max_stream_pending=4) as wire:
        caller = Caller(wire)
        with held(wire.server.repository.language_model()) as gate:
            await caller.send(*(ask(number, 0, "The") for number in range(10)))
            await gate.reached()
            await until(lambda: wire.metric("hiddenstate_requests_in_flight", method="PredictStream") == 4)
            # A call of its own passes the stream's reader many times: were there room, more would be read.
            await wire.models.ListModels(ListModelsRequest())
            assert wire.metric("hiddenstate_requests_in_flight", method="PredictStream") == 4
        assert len(await caller.replies(10)) == 10
        caller.call.cancel()


async def test_a_caller_who_does_not_read_stops_only_itself(models_dir: Path) -> None:
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)]
    async with (
        serving(models_dir, max_stream_pending=64) as wire,
        grpc.aio.insecure_channel(str(wire.server.address), options=small_window) as channel,
    ):
        deaf = Caller(wire, channel)
        sending = asyncio.ensure_future(send_all(deaf, 1000))
        done = {"method": "PredictStream", "code": "OK"}
        await until(lambda: wire.metric("hiddenstate_requests_total", **done) >= 64)
        other = Caller(wire)
        for number in range(200):
            await other.send(ask(number, 1, TEXT))
            assert words(await other.reply())
        # Replies that nobody reads fill the window of flow control, and then the stream stands still.
        assert wire.metric("hiddenstate_requests_total", **done) < 1000
        assert wire.metric("hiddenstate_requests_in_flight", method="PredictStream") <= 64
        other.call.cancel()
        assert len(await deaf.replies(1000)) == 1000
        await sending


async def send_all(caller: Caller, count: int) -> None:
    """Sends requests with big replies, one message each, and ends the stream."""
    for number in range(count):
        await caller.send(ask(number, 0, "The", top_k=50))
    await caller.call.done_writing()


async def test_a_stream_that_its_caller_ends_answers_everything_first(caller: Caller) -> None:
    await caller.send(*(ask(number, 1, "The") for number in range(50)))
    await caller.call.done_writing()
    assert len(await caller.replies(50)) == 50
    assert await caller.message() == []
    assert await caller.call.code() is grpc.StatusCode.OK


async def test_an_empty_stream_and_empty_messages_are_fine(caller: Caller) -> None:
    await caller.send()
    await caller.call.done_writing()
    assert await caller.message() == []
    assert await caller.call.code() is grpc.StatusCode.OK


async def test_an_idle_context_costs_at_most_512_bytes_more_than_its_state(models_dir: Path) -> None:
    def begun(number: int) -> StreamedPredictRequest:
        context = TokenIds(ids=[number % 31, number // 31 % 31, number // 31**2])  # unlike all others
        return StreamedPredictRequest(request_id=number, context_id=number, predict=PredictRequest(tokens=context))

    async with serving(models_dir, cache_bytes=40_000) as wire:  # so small that only the stream holds the states
        caller = Caller(wire)
        await caller.send(*map(begun, range(1, 301)))
        await caller.replies(300)
        tracemalloc.start()
        try:
            await caller.send(*map(begun, range(301, 2_301)))
            await caller.replies(2_000)
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        spec = wire.server.repository.language_model().bundle.language_model
        assert spec is not None
        each = taken / 2_000 - 4 * spec.state_size
        assert 0 < each < 384  # malloc rounds up, and states lie in heaps of several threads: that may take the rest


async def test_what_is_answered_leaves_nothing_for_the_garbage_collector(wire: Wire, caller: Caller) -> None:
    gc.collect()
    gc.disable()
    try:
        await caller.send(*(ask(number, number, "I would") for number in range(1, 11)))
        await caller.replies(10)
        await until(lambda: not [each for each in gc.get_objects() if type(each) in (Predicting, streams.Arrived)])
    finally:
        gc.enable()


async def test_a_cancelled_stream_leaves_nothing_behind(wire: Wire, caller: Caller) -> None:
    before = len(asyncio.all_tasks())
    model = wire.server.repository.language_model()
    with held(model) as gate:
        await caller.send(*(ask(number, number % 3, TEXT) for number in range(60)))
        await gate.reached()
        await until(lambda: wire.metric("hiddenstate_requests_in_flight", method="PredictStream") == 60)
        caller.call.cancel()
        await until(lambda: wire.server.running.count == 0)
    await until(lambda: model.scheduler.waiting_requests == model.scheduler.waiting_tokens == 0)
    await until(lambda: len(asyncio.all_tasks()) <= before)
    assert wire.metric("hiddenstate_requests_total", method="PredictStream", code="CANCELLED") == 60
    assert wire.metric("hiddenstate_streams_total", method="PredictStream", code="CANCELLED") == 1


async def test_a_message_that_is_none_ends_the_stream_after_all_before_it_is_answered(wire: Wire) -> None:
    call: Any = wire.channel.stream_stream("/hiddenstate.v1.LanguageModelService/PredictStream")()
    await call.write(PredictStreamRequest(requests=[ask(1, 1, TEXT)]).SerializeToString())
    await call.write(b"\xff\xff")
    reply = PredictStreamResponse.FromString(await call.read())
    assert words(reply.responses[0]) == await words_after(wire, TEXT)
    error = await failure(call.read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
