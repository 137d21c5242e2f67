from collections.abc import Iterator

import pytest

from client.fake_server import FakeServer, RunningServer
from hiddenstate import Client


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    fake = FakeServer()
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
