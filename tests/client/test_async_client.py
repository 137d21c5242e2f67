"""The asyncio client: what differs from the one for threads is the event loop, cancelling and closing."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from client.fake_server import FakeServer, RunningServer, endless, fall_silent
from hiddenstate import (
    AsyncClient,
    CallCancelledError,
    Client,
    DeadlineError,
    FinishReason,
    InvalidRequestError,
    ModelNotFoundError,
    UnavailableError,
)


@pytest_asyncio.fixture
async def async_client(server: RunningServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as client:
        yield client


@pytest.fixture
def silent(fake: FakeServer) -> FakeServer:
    fall_silent(fake)
    return fake


async def test_the_text_of_a_generation_is_whole_whoever_took_its_words(async_client: AsyncClient) -> None:
    generation = async_client.generate("I")
    assert (await anext(generation)).word == "a"
    assert [await generation.text(), await generation.text()] == ["a, b"] * 2
    assert [word async for word in generation] == []
    await async_client.close()
    assert await generation.text() == "a, b"


async def test_both_clients_ask_the_same_and_answer_the_same(
    async_client: AsyncClient, client: Client, fake: FakeServer
) -> None:
    assert await async_client.predict("I", top_k=2, prefix="a", return_state=True) == client.predict(
        "I", top_k=2, prefix="a", return_state=True
    )
    assert await async_client.score("so it is", model="m") == client.score("so it is", model="m")
    assert await async_client.generate("I", seed=3).text() == client.generate("I", seed=3).text()
    assert (await async_client.encode(["a", "b"])).tolist() == client.encode(["a", "b"]).tolist()
    assert fake.requests[0::2] == fake.requests[1::2]
    assert await async_client.models() == client.models()
    assert await async_client.model("english-lm") == client.model("english-lm")


async def test_many_tasks_share_a_client(async_client: AsyncClient) -> None:
    predictions = await asyncio.gather(*(async_client.predict(str(i), top_k=1) for i in range(100)))
    assert [p.candidates[0].word for p in predictions] == [f"{i}+0" for i in range(100)]


async def test_generated_words_come_one_by_one_and_the_end_tells_why(async_client: AsyncClient) -> None:
    async with async_client.generate("I", seed=7) as generation:
        assert [word.word async for word in generation] == ["a", ",", "b"]
    assert (generation.finish_reason, generation.seed) == (FinishReason.END_OF_TEXT, 7)


async def test_leaving_a_generation_stops_the_servers_work(async_client: AsyncClient, fake: FakeServer) -> None:
    stopped = endless(fake)
    async with async_client.generate("I") as generation:
        assert (await anext(generation)).word == "a"
    assert await asyncio.to_thread(stopped.wait, 30)


async def test_errors_have_the_same_types(async_client: AsyncClient) -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'x'"):
        await async_client.predict("fail NOT_FOUND no model 'x'")
    with pytest.raises(ModelNotFoundError, match="no model 'x'"):
        await async_client.generate("fail NOT_FOUND no model 'x'").text()


async def test_no_server_at_the_address_is_said_with_the_address() -> None:
    async with AsyncClient("127.0.0.1:9") as client:
        with pytest.raises(UnavailableError, match=r"no server answers at 127\.0\.0\.1:9"):
            await client.predict("I")


async def test_silence_ends_with_the_deadline(async_client: AsyncClient, silent: FakeServer) -> None:
    with pytest.raises(DeadlineError):
        await async_client.predict("I", timeout_s=0.05)


async def test_a_timeout_that_is_no_time_is_refused(async_client: AsyncClient) -> None:
    with pytest.raises(InvalidRequestError, match=r"^timeout_s: is 0; it must be a number of seconds above 0$"):
        await async_client.predict("I", timeout_s=0)
    with pytest.raises(ValueError, match=r"^timeout_s: is 'x'; it must be a number of seconds above 0, or None"):
        AsyncClient(timeout_s="x")  # type: ignore[arg-type]


async def test_a_cancelled_task_is_cancelled(async_client: AsyncClient, silent: FakeServer) -> None:
    task = asyncio.create_task(async_client.predict("I"))
    await asyncio.to_thread(silent.arrived.acquire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_a_client_ends_a_call_of_another_task(server: RunningServer, silent: FakeServer) -> None:
    client = AsyncClient(server.address)
    task = asyncio.create_task(client.predict("I"))
    await asyncio.to_thread(silent.arrived.acquire)
    await client.close()
    with pytest.raises(CallCancelledError, match="closed"):
        await task
    with pytest.raises(CallCancelledError, match="closed"):
        await client.predict("I")


def test_a_client_can_be_made_before_there_is_an_event_loop(server: RunningServer) -> None:
    client = AsyncClient(server.address)

    async def main() -> str:
        async with client:
            return (await client.predict("I", top_k=1)).candidates[0].word

    assert asyncio.run(main()) == "I+0"
