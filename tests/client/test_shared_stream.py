"""Calls that ride on a stream together: that they share, and that nobody notices when it breaks."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from client.fake_server import FakeServer, RunningServer, encoded
from hiddenstate import (
    AsyncClient,
    Client,
    DeadlineError,
    InvalidRequestError,
    MessageTooLargeError,
    UnavailableError,
)
from hiddenstate.results import Priority
from hiddenstate.v1 import language_model_pb2 as lm
from hiddenstate.v1 import sentence_encoder_pb2 as se
from hiddenstate.v1.priority_pb2 import PRIORITY_BULK, PRIORITY_INTERACTIVE


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.silence.set()


def silence(fake: FakeServer) -> None:
    """Makes the server answer no sentences until `fake.silence` is set."""

    def silent(request: se.EncodeRequest, context: grpc.ServicerContext) -> se.EncodeResponse:
        fake.silence.wait()
        return FakeServer.encode(fake, request, context)

    fake.encode = silent  # type: ignore[method-assign]


def breaking(fake: FakeServer, text: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> list[int]:
    """Makes the server break each stream that brings `text`; returns where it counts them."""
    streams = []

    def break_off(
        messages: Iterable[se.EncodeStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[se.EncodeStreamResponse]:
        streams.append(1)
        for message in messages:
            for request in message.requests:
                if request.encode.sentences[0] == text:
                    context.abort(code, "broken")
                reply = se.StreamedEncodeResponse(request_id=request.request_id)
                reply.response.CopyFrom(encoded([(1, 2)]))
                yield se.EncodeStreamResponse(responses=[reply])

    fake.encode_stream = break_off  # type: ignore[method-assign]
    return streams


def counts(fake: FakeServer) -> list[int]:
    """Returns how many requests each message had."""
    return [len(message.requests) for message in fake.messages]  # type: ignore[attr-defined]


async def test_a_thousand_tasks_share_far_fewer_messages(server: RunningServer, fake: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        vectors = await asyncio.gather(*(client.encode("x" * (i + 1)) for i in range(1000)))
    assert [vector[0, 0] for vector in vectors] == list(range(1, 1001))
    assert len(fake.messages) < 20


def test_threads_share_messages(client: Client, fake: FakeServer) -> None:
    silence(fake)
    with ThreadPoolExecutor(40) as pool:
        calls = [pool.submit(client.encode, "x" * (i + 1)) for i in range(40)]
        fake.silence.set()
        assert [call.result()[0, 0] for call in calls] == list(range(1, 41))
    assert sum(counts(fake)) == 40


def test_a_lone_call_is_a_message_of_its_own_and_tells_its_time(client: Client, fake: FakeServer) -> None:
    client.encode("a", timeout_s=5)
    client.predict("I", timeout_s=5)
    for message in fake.messages:
        (request,) = message.requests  # type: ignore[attr-defined]
        assert 4900 < request.timeout_ms <= 5001


async def test_no_message_is_over_the_limit(server: RunningServer, fake: FakeServer) -> None:
    async with AsyncClient(server.address, max_message_bytes=2000) as client:
        await asyncio.gather(*(client.encode("x" * 100) for _ in range(200)))
    assert all(message.ByteSize() <= 2000 for message in fake.messages)
    assert 10 <= len(fake.messages) <= 50


async def test_a_request_over_the_limit_fails_alone(server: RunningServer) -> None:
    async with AsyncClient(server.address, max_message_bytes=2000) as client:
        good = asyncio.create_task(client.encode("a"))
        with pytest.raises(MessageTooLargeError, match="max_message_bytes"):
            await client.encode("x" * 3000)
        assert (await good).shape == (1, 3)


def test_a_large_request_goes_alone_so_that_it_holds_up_nobody(client: Client, fake: FakeServer) -> None:
    assert client.encode("x" * 300_000)[0, 0] == 300_000
    assert fake.messages == []


@pytest.mark.parametrize(("priority", "wanted"), [("interactive", PRIORITY_INTERACTIVE), ("bulk", PRIORITY_BULK)])
def test_a_priority_reaches_the_server(client: Client, fake: FakeServer, priority: Priority, wanted: int) -> None:
    client.predict("I", priority=priority)
    client.score("I", priority=priority)
    client.encode("I", priority=priority)
    client.generate("I", priority=priority).text()
    list(client.encode_batches(["a"], priority=priority))
    assert [request.priority for request in fake.requests] == [wanted] * 5  # type: ignore[attr-defined]


def test_an_unknown_priority_is_refused(client: Client) -> None:
    calls: tuple[Any, ...] = (client.predict, client.score, client.generate, client.encode)
    for call in calls:
        with pytest.raises(InvalidRequestError, match="priority: is 'urgent'; it must be 'interactive' or 'bulk'"):
            call("I", priority="urgent")


def test_calls_of_threads_outlive_a_server_that_is_killed_and_started_again(
    server: RunningServer, client: Client, fake: FakeServer
) -> None:
    client.encode("first")
    fake.arrived.acquire()
    silence(fake)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.encode, "x" * (i + 1)) for i in range(8)]
        for _ in calls:
            assert fake.arrived.acquire(timeout=30)
        server.stop()
        again = RunningServer(FakeServer(), address=server.address)
        assert [call.result()[0, 0] for call in calls] == list(range(1, 9))
        client.close()
        again.stop()


async def test_calls_of_tasks_outlive_a_server_that_is_killed_and_started_again(
    server: RunningServer, fake: FakeServer
) -> None:
    async with AsyncClient(server.address) as client:
        await client.encode("first")
        fake.arrived.acquire()
        silence(fake)
        calls = [asyncio.create_task(client.encode("x" * (i + 1))) for i in range(8)]
        for _ in calls:
            assert await asyncio.to_thread(fake.arrived.acquire, timeout=30)
        await asyncio.to_thread(server.stop)
        again = RunningServer(FakeServer(), address=server.address)
        assert [(await call)[0, 0] for call in calls] == list(range(1, 9))
    again.stop()


def test_a_request_that_breaks_its_server_does_not_go_round_for_ever(client: Client, fake: FakeServer) -> None:
    streams = breaking(fake, "poison")
    client.encode("good")
    with pytest.raises(UnavailableError, match="broken"):
        client.encode("poison")
    assert len(streams) <= 5
    assert client.encode("good").shape == (1, 2)


async def test_no_replay_is_begun_that_would_come_too_late(server: RunningServer, fake: FakeServer) -> None:
    streams = breaking(fake, "poison")
    async with AsyncClient(server.address) as client:
        with pytest.raises(UnavailableError, match="broken"):
            await client.encode("poison", timeout_s=0.05)
    assert len(streams) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.PERMISSION_DENIED])
def test_what_a_stream_cannot_carry_is_asked_alone(client: Client, fake: FakeServer, code: grpc.StatusCode) -> None:
    breaking(fake, "poison", code)
    assert client.encode("poison").shape == (1, 3)
    assert [list(request.sentences) for request in fake.requests] == [["poison"]]  # type: ignore[attr-defined]


def test_a_server_without_streams_is_asked_for_them_once(client: Client, fake: FakeServer) -> None:
    asked = []

    def refuse(
        messages: Iterable[lm.PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[lm.PredictStreamResponse]:
        asked.append(1)
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    fake.predict_stream = refuse  # type: ignore[method-assign]
    assert [client.predict(str(i), top_k=1).candidates[0].word for i in range(3)] == ["0+0", "1+0", "2+0"]
    assert len(asked) == 1


async def test_the_shortest_deadline_comes_first_and_a_late_reply_is_dropped(
    server: RunningServer, fake: FakeServer
) -> None:
    silence(fake)
    async with AsyncClient(server.address) as client:
        patient = [asyncio.create_task(client.encode("patient", timeout_s=s)) for s in (30, 60, None)]
        with pytest.raises(DeadlineError, match="timeout_s"):
            await client.encode("hasty", timeout_s=0.05)
        with pytest.raises(DeadlineError, match="timeout_s"):
            await client.encode("hasty", timeout_s=1e-9)
        fake.silence.set()
        assert [(await task)[0, 0] for task in patient] == [7, 7, 7]
        assert (await client.encode("abc"))[0, 0] == 3


async def test_tasks_that_are_cancelled_or_late_leave_nothing_behind(server: RunningServer, fake: FakeServer) -> None:
    silence(fake)
    async with AsyncClient(server.address) as client:
        tasks = [asyncio.create_task(client.encode("dropped")) for _ in range(50)]
        late = [asyncio.create_task(client.encode("late", timeout_s=0.05)) for _ in range(50)]
        await asyncio.to_thread(fake.arrived.acquire)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, *late, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError, DeadlineError}
        stream = client._encodings._live()
        assert not stream._pending
        assert not stream._outbox


async def test_a_task_that_is_cancelled_before_its_request_left_sends_nothing(
    server: RunningServer, fake: FakeServer
) -> None:
    async with AsyncClient(server.address) as client:
        await client.encode("first")
        dropped = asyncio.create_task(client.encode("dropped"))
        await asyncio.sleep(0)
        dropped.cancel()
        await client.encode("last")
    assert [request.sentences[0] for request in fake.requests] == ["first", "last"]  # type: ignore[attr-defined]


def test_a_client_that_nobody_closed_leaves_no_thread_behind(server: RunningServer) -> None:
    client = Client(server.address)
    client.encode("a")
    readers = [thread for thread in threading.enumerate() if thread.name == "hiddenstate-replies"]
    assert readers
    del client
    gc.collect()
    for reader in readers:
        reader.join(30)
        assert not reader.is_alive()


async def test_an_async_client_that_nobody_closed_leaves_no_task_behind(server: RunningServer) -> None:
    client = AsyncClient(server.address)
    await client.encode("a")
    (reader,) = [task for task in asyncio.all_tasks() if task.get_name() == "hiddenstate-replies"]
    del client
    gc.collect()
    await asyncio.wait_for(reader, 30)


def test_many_sentences_ride_on_the_stream_in_order(client: Client, fake: FakeServer) -> None:
    sentences = ["x" * (i % 90 + 1) for i in range(2000)]
    np.testing.assert_array_equal(client.encode(sentences, batch_size=16)[:, 0], [len(s) for s in sentences])
    assert sum(counts(fake)) == 125


_FORKING = """
import os, sys
from hiddenstate import Client
client = Client(sys.argv[1])
client.encode("parent")
child = os.fork()
print(int(client.encode("four" if child else "child")[0, 0]), flush=True)
if child:
    os.waitpid(child, 0)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_client_serves_the_parent_and_the_child_after_a_fork(server: RunningServer) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _FORKING, server.address],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1"},
    )
    assert sorted(result.stdout.split()) == ["4", "5"]
