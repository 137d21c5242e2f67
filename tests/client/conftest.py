from collections.abc import Iterator

import pytest

from client.fake_server import FakeServer, RunningServer
from hiddenstate import Client


@pytest.fixture(params=["streams", "no streams"])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    """Answers calls that ride on streams, and then, as an older server, each by itself: callers see no difference."""
    fake = FakeServer()
    fake.has_streams = request.param == "streams"
    yield fake
    fake.silence.set()


@pytest.fixture
def server(fake: FakeServer) -> Iterator[RunningServer]:
    server = RunningServer(fake)
    yield server
    fake.silence.set()
    server.stop()


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client
