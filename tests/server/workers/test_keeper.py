"""One worker's place, and the page of all: with processes that only pretend to serve."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from hiddenstate_server.config import Settings
from hiddenstate_server.errors import ConfigError, WorkersError
from hiddenstate_server.workers import restarts, scrape, supervisor
from hiddenstate_server.workers.keeper import Keeper
from hiddenstate_server.workers.scrape import WorkersCollector
from serving import WAIT_S

PRETENCE = """
import os, signal, sys
from hiddenstate_server.announcement import Offer
from hiddenstate_server.workers.channel import *

channel = WorkerEnd.of(int(sys.argv[1]))
life = channel.receive(Begin).settings.models

def ready():
    channel.send(Ready(Offer("m 1", "predict", "")))

def answer(calls, running):
    channel.receive(Scrape)
    channel.send(Metrics([
        Family("calls", "Calls.", "counter", [("calls_total", {}, calls)]),
        Family("running", "Calls that run.", "gauge", [("running", {}, running)]),
    ]))

def nth_life():
    with open(life, "a+") as file:
        file.write("x")
        return file.tell()
"""


class Kept:
    """A keeper at work, and its metrics."""

    def __init__(self, keeper: Keeper, keeping: "asyncio.Task[None]", served: "asyncio.Queue[None]") -> None:
        self.keeper = keeper
        self.keeping = keeping
        self._served = served
        self._registry = CollectorRegistry()
        self._registry.register(WorkersCollector([keeper]))

    async def serves(self) -> None:
        """Waits until a worker serves that did not before."""
        async with asyncio.timeout(WAIT_S):
            await self._served.get()

    async def ended(self) -> None:
        """Waits until the worker is gone."""
        assert self.keeper.worker
        async with asyncio.timeout(WAIT_S):
            await self.keeper.worker.end()

    async def scrape(self) -> "Callable[..., float | None]":
        """Asks for the page, and returns what finds a sample in it."""
        registry = CollectorRegistry()
        families = await asyncio.to_thread(lambda: list(self._registry.collect()))
        registry.register(type("Page", (), {"collect": lambda _: iter(families)})())
        return lambda name, **labels: registry.get_sample_value(name, labels)


@asynccontextmanager
async def kept(code: str, life: Path) -> AsyncIterator[Kept]:
    """Keeps a process that runs `code`."""
    keeper = Keeper(1, Settings(models=life), (sys.executable, "-c", PRETENCE + code))
    served: asyncio.Queue[None] = asyncio.Queue()
    keeping = asyncio.create_task(keeper.keep(lambda: served.put_nowait(None)))
    try:
        yield Kept(keeper, keeping, served)
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        await supervisor._end([keeper], WAIT_S)


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where processes count their lives; the next begins without delay."""
    monkeypatch.setattr(restarts, "_FIRST_DELAY_S", 0.0)
    return tmp_path / "lives"


def lives(life: Path) -> int:
    """Returns how many processes have begun."""
    return len(life.read_text())


async def test_a_worker_that_ends_is_followed_by_another_and_its_counts_stay(life: Path) -> None:
    code = """
if nth_life() == 1:
    ready(); answer(calls=3, running=2)
    channel.receive(Scrape); sys.exit(7)
ready(); answer(calls=10, running=1)
"""
    async with kept(code, life) as worker:
        await worker.serves()
        value = await worker.scrape()
        assert (value("calls_total"), value("running"), value("hiddenstate_worker_up", worker="1")) == (3, 2, 1)
        await worker.scrape()
        await worker.serves()
        value = await worker.scrape()
        assert (value("calls_total"), value("running")) == (13, 1)
        assert value("hiddenstate_worker_restarts_total", worker="1") == 1


async def test_the_page_comes_while_no_worker_serves(life: Path) -> None:
    async with kept("sys.stdin.close(); signal.pause()", life) as worker:
        value = await worker.scrape()
        assert value("hiddenstate_worker_up", worker="1") == 0
        assert value("process_resident_memory_bytes", worker="supervisor")


async def test_a_worker_that_hangs_stands_in_the_page_with_what_it_told_last(
    life: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kept("ready(); answer(calls=3, running=2); signal.pause()", life) as worker:
        await worker.serves()
        await worker.scrape()
        monkeypatch.setattr(scrape, "_WAIT_S", 0.01)
        for _ in range(2):
            value = await worker.scrape()
            assert (value("calls_total"), value("hiddenstate_worker_up", worker="1")) == (3, 0)


async def test_a_worker_that_never_serves_is_given_up(life: Path) -> None:
    async with kept("nth_life(); sys.exit(3)", life) as worker:
        with pytest.raises(WorkersError, match="worker 1 ended with exit code 3, 5 times before it served; giving up"):
            await worker.keeping
    assert lives(life) == 5


async def test_what_ends_a_worker_is_named(life: Path) -> None:
    async with kept("os.kill(os.getpid(), signal.SIGKILL)", life) as worker:
        with pytest.raises(WorkersError, match="worker 1 was ended by SIGKILL"):
            await worker.keeping


async def test_a_worker_that_refuses_to_serve_is_not_started_again(life: Path) -> None:
    async with kept('nth_life(); channel.send(Refused("a setting is wrong")); sys.exit(1)', life) as worker:
        with pytest.raises(ConfigError, match=r"^a setting is wrong$"):
            await worker.keeping
    assert lives(life) == 1


async def test_a_worker_that_refuses_later_may_find_things_better_the_next_time(life: Path) -> None:
    code = """
if nth_life() == 2:
    channel.send(Refused("the model is half copied")); sys.exit(1)
ready(); channel.receive(Scrape)
"""
    async with kept(code, life) as worker:
        await worker.serves()
        await worker.scrape()
        await worker.serves()
        assert worker.keeper.restarts == 2


async def test_a_worker_that_does_not_end_is_killed(life: Path) -> None:
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready()\nwhile True: signal.pause()"
    async with kept(code, life) as worker:
        await worker.serves()
        worker.keeping.cancel()
        await asyncio.wait([worker.keeping])
        with pytest.raises(WorkersError, match=r"worker 1: did not end in 0\.01 s"):
            await supervisor._end([worker.keeper], 0.01)
        await worker.ended()
