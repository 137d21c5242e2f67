"""A text whose server is gone in the middle is written on by another, with the same seed and the same words."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from client.fake_server import USAGE, FakeServer, RunningServer
from hiddenstate import AsyncClient, Client, InvalidRequestError, ModelChangedError, UnavailableError
from hiddenstate.v1 import language_model_pb2 as lm

WORDS = ("all", "that", "is", "gold")


class Writer(FakeServer):
    """Writes words, and none from one of them on until it is stopped."""

    def __init__(self, *, stops_before: int | None = None, words: tuple[str, ...] = WORDS) -> None:
        super().__init__()
        self.stops_before = stops_before
        self.words = words

    def generate(self, request: lm.GenerateRequest, context: grpc.ServicerContext) -> Iterator[lm.GenerateResponse]:
        last, go_on = len(self.words) - 1, lm.GenerateResponse.FINISH_REASON_UNSPECIFIED
        for number, word in enumerate(self.words):
            if number == self.stops_before:
                context.add_callback(self.silence.set)
                self.silence.wait()
                return
            end = lm.GenerateResponse.FINISH_REASON_LENGTH if number == last else go_on
            seed = request.seed if number == last else 0
            token_id = sum(word.encode())
            yield lm.GenerateResponse(word=word, token_id=token_id, finish_reason=end, seed=seed, usage=USAGE)


def seeds(*writers: Writer) -> list[int]:
    requests = [request for writer in writers for request in writer.requests]
    return [request.seed for request in requests if isinstance(request, lm.GenerateRequest)]


def test_a_text_goes_on_where_its_server_is_gone() -> None:
    first, second = Writer(stops_before=2), Writer()
    with RunningServer(first) as server, Client(server.address) as client, client.generate("I") as generation:
        assert [next(generation).word for _ in range(2)] == ["all", "that"]
        server.stop()
        with RunningServer(second, address=server.address):
            assert [word.word for word in generation] == ["is", "gold"]
            client.close()
    (seed, again) = seeds(first, second)
    assert seed == again == generation.seed


async def test_a_text_of_a_task_goes_on_where_its_server_is_gone() -> None:
    first, second = Writer(stops_before=2), Writer()
    with RunningServer(first) as server:
        async with AsyncClient(server.address) as client, client.generate("I") as generation:
            assert [(await anext(generation)).word for _ in range(2)] == ["all", "that"]
            await asyncio.to_thread(server.stop)
            with RunningServer(second, address=server.address):
                assert [word.word async for word in generation] == ["is", "gold"]
                assert generation.seed == seeds(first)[0] == seeds(second)[0]
                await client.close()


def test_another_text_of_the_server_that_goes_on_is_told() -> None:
    first, second = Writer(stops_before=2), Writer(words=("all", "who", "are", "gold"))
    with RunningServer(first) as server, Client(server.address) as client, client.generate("I") as generation:
        assert [next(generation).word for _ in range(2)] == ["all", "that"]
        server.stop()
        with RunningServer(second, address=server.address):
            with pytest.raises(ModelChangedError, match="start over, or name model_version"):
                next(generation)
            client.close()


def test_a_text_whose_servers_are_all_gone_says_so() -> None:
    first = Writer(stops_before=2)
    with RunningServer(first) as server, Client(server.address) as client, client.generate("I") as generation:
        assert [next(generation).word for _ in range(2)] == ["all", "that"]
        server.stop()
        with pytest.raises(UnavailableError):
            next(generation)


def test_a_text_that_is_refused_is_asked_for_once() -> None:
    with RunningServer(writer := Writer()) as server, Client(server.address) as client:
        with pytest.raises(InvalidRequestError, match="no"):
            client.generate("fail INVALID_ARGUMENT no").text()
        assert len(seeds(writer)) == 1


def test_a_text_that_nobody_has_time_for_is_asked_for_again() -> None:
    with RunningServer(writer := Writer()) as server, Client(server.address) as client:
        with pytest.raises(UnavailableError):
            client.generate("fail UNAVAILABLE draining").text()
        assert len(seeds(writer)) == 4
