"""Streams over the wire, for threads and for tasks: contexts, order, errors, and that nothing ever hangs."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from client.fake_server import FakeServer, RunningServer, streamed
from hiddenstate import (
    AsyncClient,
    AsyncPredictStream,
    CallCancelledError,
    Client,
    DeadlineError,
    HiddenstateError,
    InvalidRequestError,
    Prediction,
    PredictStream,
    UnavailableError,
)
from hiddenstate.v1 import language_model_pb2 as lm


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.silence.set()


@pytest.fixture
def stream(client: Client) -> Iterator[PredictStream]:
    with client.open_stream() as stream:
        yield stream


def word(prediction: Prediction) -> str:
    return prediction.candidates[0].word


def silent_stream(fake: FakeServer) -> None:
    """Makes the server take the requests of streams and answer nothing."""

    def silent(
        messages: Iterable[lm.PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[lm.PredictStreamResponse]:
        for message in messages:
            fake.receive(message)
        fake.silence.wait()
        yield lm.PredictStreamResponse()

    fake.predict_stream = silent  # type: ignore[method-assign]


def breaking_stream(fake: FakeServer, count: int, code: grpc.StatusCode | None) -> None:
    """Makes the server end a stream once it has taken `count` requests: with an error, or without one."""

    def breaking(
        messages: Iterable[lm.PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[lm.PredictStreamResponse]:
        yield lm.PredictStreamResponse()
        taken = 0
        for message in messages:
            taken += len(message.requests)
            if taken >= count:
                break
        if code is not None:
            context.abort(code, "gone")

    fake.predict_stream = breaking  # type: ignore[method-assign]


def test_a_context_remembers_what_was_appended(stream: PredictStream) -> None:
    context, other = stream.context(), stream.context()
    assert word(context.predict("I", top_k=1)) == "I+0"
    assert word(other.predict("You", top_k=1)) == "You+0"
    assert word(context.predict(" like", top_k=1, prefix="t")) == "I like+t0"
    assert word(context.predict(top_k=1)) == "I like+0"


def test_a_contexts_model_and_every_option_reach_the_server(stream: PredictStream, fake: FakeServer) -> None:
    context = stream.context(model="m", model_version="9")
    assert context.predict(tokens=[3], top_k=7, prefix="th", state=b"before", return_state=True).state == b"state"
    (message,) = fake.requests
    assert isinstance(message, lm.PredictStreamRequest)
    assert message.requests[0].predict == lm.PredictRequest(
        tokens=lm.TokenIds(ids=[3]),
        top_k=7,
        prefix="th",
        state=b"before",
        return_state=True,
        model="m",
        model_version="9",
    )


def test_a_refused_request_leaves_stream_and_context_as_they_were(stream: PredictStream) -> None:
    context = stream.context()
    context.predict("I")
    with pytest.raises(InvalidRequestError, match="text: is not wanted") as caught:
        context.predict("fail")
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert word(context.predict(" like", top_k=1)) == "I like+0"


def test_replies_in_any_order_go_to_whom_they_belong(client: Client, fake: FakeServer) -> None:
    def backwards(
        messages: Iterable[lm.PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[lm.PredictStreamResponse]:
        requests: list[lm.StreamedPredictRequest] = []
        for message in messages:
            requests += message.requests
            if len(requests) == 8:
                yield lm.PredictStreamResponse(responses=[streamed(request, {}) for request in reversed(requests)])

    fake.predict_stream = backwards  # type: ignore[method-assign]
    with client.open_stream() as stream, ThreadPoolExecutor(8) as pool:
        predictions = list(pool.map(lambda i: stream.context().predict(str(i), top_k=1), range(8)))
    assert [word(prediction) for prediction in predictions] == [f"{i}+0" for i in range(8)]


def test_many_threads_share_a_stream(stream: PredictStream) -> None:
    def type_words(name: int) -> str:
        with stream.context() as context:
            for _ in range(20):
                prediction = context.predict(str(name), top_k=1)
            return word(prediction)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(type_words, range(8))) == [str(i) * 20 + "+0" for i in range(8)]


def test_closing_a_context_tells_the_server_once(client: Client, fake: FakeServer) -> None:
    with client.open_stream() as stream:
        with stream.context() as context:
            context.predict("I")
        context.close()
        with pytest.raises(InvalidRequestError, match="closed"):
            context.predict("I")
    requests = [request for message in fake.requests for request in message.requests]  # type: ignore[attr-defined]
    closing = [request for request in requests if request.close_context]
    assert [(request.context_id, request.HasField("predict")) for request in closing] == [(1, False)]


def test_a_context_whose_request_timed_out_is_closed_since_nobody_knows_its_text(
    client: Client, fake: FakeServer
) -> None:
    silent_stream(fake)
    stream = client.open_stream()
    context = stream.context()
    with pytest.raises(DeadlineError):
        context.predict("I", timeout_s=0.05)
    with pytest.raises(InvalidRequestError, match="begin another"):
        context.predict("I")
    fake.silence.set()
    stream.close()


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
def test_streams_that_all_break_fail_all_that_wait_and_all_that_come(
    client: Client, fake: FakeServer, code: grpc.StatusCode | None
) -> None:
    breaking_stream(fake, 4, code)
    stream = client.open_stream()
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(lambda i: failure_of(stream, str(i)), range(4)))
    assert [type(error) for error in errors] == [UnavailableError] * 4
    assert len({id(error) for error in errors}) == 4
    breaking_stream(fake, 1, code)
    assert isinstance(failure_of(stream, "later"), UnavailableError)
    stream.close()


def test_a_server_that_dies_fails_all_that_wait(server: RunningServer, client: Client, fake: FakeServer) -> None:
    silent_stream(fake)
    stream = client.open_stream()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(failure_of, stream, "I")
        assert fake.arrived.acquire(timeout=30)
        server.stop()
        assert isinstance(running.result(), UnavailableError)


def test_no_server_is_reported_by_the_first_prediction() -> None:
    with Client("127.0.0.1:9") as client, client.open_stream() as stream:
        error = failure_of(stream, "I")
    assert str(error).startswith("no server answers at 127.0.0.1:9")


def test_closing_a_client_fails_what_waits_on_its_streams(client: Client, fake: FakeServer) -> None:
    silent_stream(fake)
    stream = client.open_stream()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(failure_of, stream, "I")
        assert fake.arrived.acquire(timeout=30)
        client.close()
        assert isinstance(running.result(), CallCancelledError)


def test_a_closed_stream_says_so(stream: PredictStream) -> None:
    context = stream.context()
    stream.close()
    with pytest.raises(CallCancelledError, match="closed"):
        context.predict("I")


def test_a_stream_leaves_no_thread_behind(client: Client) -> None:
    with client.open_stream() as stream:
        stream.context().predict("I")
        reader = next(t for t in threading.enumerate() if t.name == "hiddenstate-replies")
    assert not reader.is_alive()


async def test_tasks_have_contexts_too(server: RunningServer) -> None:
    async def type_words(stream: AsyncPredictStream, name: int) -> str:
        async with stream.context() as context:
            await context.predict(str(name))
            return word(await context.predict(str(name), top_k=1))

    async with AsyncClient(server.address) as client, client.open_stream() as stream:
        words = await asyncio.gather(*(type_words(stream, i) for i in range(50)))
    assert words == [f"{i}{i}+0" for i in range(50)]


async def test_what_tasks_ask_at_once_goes_out_in_one_message(server: RunningServer, fake: FakeServer) -> None:
    async with AsyncClient(server.address) as client, client.open_stream() as stream:
        await asyncio.gather(*(stream.context().predict("I") for _ in range(100)))
    assert [len(message.requests) for message in fake.requests] == [100]  # type: ignore[attr-defined]


async def test_a_refusal_hits_one_task_only(server: RunningServer) -> None:
    async with AsyncClient(server.address) as client, client.open_stream() as stream:
        good = asyncio.create_task(stream.context().predict("I", top_k=1))
        with pytest.raises(InvalidRequestError, match="not wanted"):
            await stream.context().predict("fail")
        assert word(await good) == "I+0"


async def test_a_task_that_times_out_or_is_cancelled_closes_its_context(
    server: RunningServer, fake: FakeServer
) -> None:
    silent_stream(fake)
    async with AsyncClient(server.address) as client:
        stream = client.open_stream()
        late, dropped = stream.context(), stream.context()
        with pytest.raises(DeadlineError):
            await late.predict("I", timeout_s=0.05)
        task = asyncio.create_task(dropped.predict("I"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for context in (late, dropped):
            with pytest.raises(InvalidRequestError, match="begin another"):
                await context.predict("I")
        fake.silence.set()
        await stream.close()


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN])
async def test_streams_that_all_break_fail_all_tasks(
    server: RunningServer, fake: FakeServer, code: grpc.StatusCode | None
) -> None:
    breaking_stream(fake, 4, code)
    async with AsyncClient(server.address) as client:
        stream = client.open_stream()
        errors = await asyncio.gather(*(stream.context().predict("I") for _ in range(4)), return_exceptions=True)
        assert [type(error) for error in errors] == [UnavailableError] * 4
        breaking_stream(fake, 1, code)
        with pytest.raises(UnavailableError):
            await stream.context().predict("later")
        await stream.close()


async def test_closing_a_client_fails_the_tasks_that_wait_on_its_streams(
    server: RunningServer, fake: FakeServer
) -> None:
    silent_stream(fake)
    client = AsyncClient(server.address)
    stream = client.open_stream()
    task = asyncio.create_task(stream.context().predict("I"))
    await asyncio.to_thread(fake.arrived.acquire)
    await client.close()
    with pytest.raises(CallCancelledError):
        await task
    await stream.close()


async def test_a_stream_closed_by_its_task_says_so(server: RunningServer) -> None:
    async with AsyncClient(server.address) as client:
        stream = client.open_stream()
        context = stream.context()
        await stream.close()
        with pytest.raises(CallCancelledError, match="closed"):
            await context.predict("I")


def failure_of(stream: PredictStream, text: str) -> HiddenstateError:
    with pytest.raises(HiddenstateError) as caught:
        stream.context().predict(text)
    return caught.value
