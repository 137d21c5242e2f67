"""Several servers: calls are spread over them, and contexts go on where one is gone."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from client.fake_server import FakeServer, RunningServer, predicted
from hiddenstate import AsyncClient, Client, Prediction, UnavailableError
from hiddenstate.endpoints import Endpoints
from hiddenstate.history import History
from hiddenstate.v1 import language_model_pb2 as lm


@pytest.fixture
def fakes() -> tuple[FakeServer, FakeServer]:
    return FakeServer(), FakeServer()


@pytest.fixture
def servers(fakes: tuple[FakeServer, FakeServer]) -> Iterator[tuple[RunningServer, RunningServer]]:
    with RunningServer(fakes[0]) as one, RunningServer(fakes[1]) as other:
        yield one, other


def word(prediction: Prediction) -> str:
    return prediction.candidates[0].word


def held_by(fakes: tuple[FakeServer, FakeServer]) -> int:
    """Returns which server holds the only context."""
    (number,) = [number for number, fake in enumerate(fakes) if fake.messages]
    return number


def requests_of(fake: FakeServer) -> list[lm.StreamedPredictRequest]:
    return [request for message in fake.messages for request in message.requests]  # type: ignore[attr-defined]


def test_a_context_goes_on_with_another_server_where_its_own_is_gone(
    fakes: tuple[FakeServer, FakeServer], servers: tuple[RunningServer, RunningServer]
) -> None:
    addresses = [server.address for server in servers]
    with Client(addresses) as client, client.open_stream() as stream, stream.context() as context:
        context.predict("I", top_k=7, prefix="w")
        context.predict(" like", return_state=False)
        held = held_by(fakes)
        servers[held].stop()
        assert word(context.predict(" it", top_k=1)) == "I like it+0"
        assert word(context.predict("!", top_k=1)) == "I like it!+0"
    predicts = [request.predict for request in requests_of(fakes[1 - held]) if request.HasField("predict")]
    assert [(each.text, each.top_k, each.prefix) for each in predicts] == [
        ("I", 1, ""),
        (" like", 1, ""),
        (" it", 1, ""),
        ("!", 1, ""),
    ]
    assert {(each.model, each.model_version) for each in predicts[:3]} == {("english-lm", "1")}


async def test_contexts_of_tasks_go_on_with_another_server_where_theirs_is_gone(
    fakes: tuple[FakeServer, FakeServer], servers: tuple[RunningServer, RunningServer]
) -> None:
    async with AsyncClient([server.address for server in servers]) as client, client.open_stream() as stream:
        contexts = [stream.context() for _ in range(20)]
        await asyncio.gather(*(context.predict(f"{number}") for number, context in enumerate(contexts)))
        await asyncio.to_thread(servers[held_by(fakes)].stop)
        predictions = await asyncio.gather(*(context.predict("!", top_k=1) for context in contexts))
    assert [word(prediction) for prediction in predictions] == [f"{number}!+0" for number in range(20)]


def test_a_context_goes_on_with_its_own_server_started_again(fakes: tuple[FakeServer, FakeServer]) -> None:
    with RunningServer(fakes[0]) as server, Client(server.address) as client, client.open_stream() as stream:
        context = stream.context()
        context.predict("I")
        server.stop()
        with RunningServer(fakes[1], address=server.address):
            assert word(context.predict(" like", top_k=1)) == "I like+0"
            client.close()


def test_a_context_whose_servers_are_all_gone_says_so_and_goes_on_when_one_is_back(
    fakes: tuple[FakeServer, FakeServer],
) -> None:
    with RunningServer(fakes[0]) as server, Client(server.address) as client, client.open_stream() as stream:
        context = stream.context()
        context.predict("I")
        server.stop()
        with pytest.raises(UnavailableError, match="no server answers"):
            context.predict(" like")
        with RunningServer(fakes[1], address=server.address):
            while True:  # gRPC waits a little before it connects again
                try:
                    assert word(context.predict(" like", top_k=1)) == "I like+0"
                    break
                except UnavailableError:
                    continue
            client.close()


def test_a_long_context_is_remembered_by_a_state_that_its_caller_does_not_see(
    fakes: tuple[FakeServer, FakeServer], servers: tuple[RunningServer, RunningServer]
) -> None:
    with Client([server.address for server in servers]) as client, client.open_stream() as stream:
        context = stream.context()
        assert all(context.predict("x", top_k=1).state is None for _ in range(70))
        held = held_by(fakes)
        assert [request.predict.return_state for request in requests_of(fakes[held])] == [False] * 64 + [True] + [
            False
        ] * 5
        servers[held].stop()
        context.predict("y", top_k=1)
    replayed = [request.predict for request in requests_of(fakes[1 - held])]
    assert [(each.text, each.state) for each in replayed] == [("x", b"state")] + [("x", b"")] * 4 + [("y", b"")]


def test_a_history_stays_small() -> None:
    history = History()
    for _ in range(100):
        request = lm.PredictRequest(text="x" * 1000, return_state=history.wants_state)
        history.add(request, predicted(request, ""))
        assert sum(each.ByteSize() for each in history.before(lm.PredictRequest())) < 6000


def test_a_state_of_the_callers_own_takes_the_place_of_what_came_before() -> None:
    history = History()
    for request in (lm.PredictRequest(text="I"), lm.PredictRequest(text="you", state=b"own")):
        history.add(request, predicted(request, ""))
    again = history.before(lm.PredictRequest(text="go"))
    assert [(each.text, each.state) for each in again] == [("you", b"own"), ("go", b"")]
    assert history.before(lm.PredictRequest(state=b"new")) == [lm.PredictRequest(state=b"new")]


def test_calls_are_spread_over_all_servers(
    fakes: tuple[FakeServer, FakeServer], servers: tuple[RunningServer, RunningServer]
) -> None:
    with Client([server.address for server in servers]) as client:
        while not all(fake.messages for fake in fakes):  # at first only one of them may be connected
            client.predict("I")


async def test_calls_of_tasks_are_spread_over_all_servers_and_none_fails_where_one_goes(
    fakes: tuple[FakeServer, FakeServer], servers: tuple[RunningServer, RunningServer]
) -> None:
    async with AsyncClient([server.address for server in servers]) as client:
        while not all(fake.messages for fake in fakes):
            await asyncio.gather(*(client.predict("I") for _ in range(10)))
        calls = [asyncio.create_task(client.predict("I", top_k=1)) for _ in range(50)]
        await asyncio.to_thread(servers[0].stop)
        assert {word(await call) for call in calls} == {"I+0"}
        assert word(await client.predict("you", top_k=1)) == "you+0"


def test_one_address_is_one_server_and_a_name_or_a_list_are_several() -> None:
    for one in ("127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/a.sock", ["10.0.0.1:1"]):
        assert not Endpoints.of(one).are_several
    for several in ("models.example:1", "dns:///models.example:1", "ipv4:10.0.0.1:1,10.0.0.2:1"):
        assert Endpoints.of(several).are_several
    pair = Endpoints.of(["127.0.0.1:1", "10.0.0.2:2"])
    assert pair == Endpoints("127.0.0.1:1, 10.0.0.2:2", "ipv4:127.0.0.1:1,10.0.0.2:2", 2, "127.0.0.1")
    assert Endpoints.of(["[::1]:1", "10.0.0.2:2"]).target == "ipv6:[::1]:1,[::ffff:10.0.0.2]:2"


def test_names_in_a_list_are_looked_up_and_those_that_are_not_found_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if host == "gone.example":
            raise socket.gaierror("unknown")
        return [(2, 1, 6, "", (number, port)) for number in ("10.0.0.1", "10.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    found = Endpoints.of(["both.example:5", "gone.example:5"])
    assert found.target == "ipv4:10.0.0.1:5,10.0.0.2:5"
    assert found.authority == "both.example"
    with pytest.raises(ValueError, match=r"none of gone\.example:5, gone\.example:6 can be found"):
        Endpoints.of(["gone.example:5", "gone.example:6"])


@pytest.mark.parametrize(
    ("addresses", "problem"),
    [
        ([], "the list is empty"),
        (["127.0.0.1:1", "nonsense"], "'nonsense' is not HOST:PORT"),
        (["127.0.0.1:1", "unix:/run/a.sock"], "give HOST:PORT without a scheme"),
        ("127.0.0.1:1,127.0.0.1:2", "is not HOST:PORT"),
        ("h:65536", "^address 'h:65536': there is no port 65536; they go from 1 to 65535$"),
        (["h:1", "h:999999"], "there is no port 999999; they go from 1 to 65535"),
        (
            "http://h:50051",
            "^address 'http://h:50051': give HOST:PORT alone, without http:// before it, for example .*1$",
        ),
        ("https://h:50051", "without https:// before it, .*; TLS is asked for by credentials, or --tls$"),
    ],
)
def test_addresses_that_are_none_are_refused(addresses: str | list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Client(addresses)


@pytest.mark.parametrize("keepalive_s", [0, -1, float("nan")])
def test_a_keepalive_that_is_no_time_is_refused(keepalive_s: float) -> None:
    with pytest.raises(ValueError, match="keepalive_s"):
        Client(keepalive_s=keepalive_s)
