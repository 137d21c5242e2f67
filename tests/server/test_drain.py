"""Counting running calls and letting them finish."""

import asyncio

import pytest

from hiddenstate_server.drain import RunningCalls
from hiddenstate_server.errors import ShuttingDownError


async def test_a_drain_without_calls_is_over_at_once() -> None:
    assert await RunningCalls().drain(0.0)


async def test_a_drain_waits_for_running_calls_and_refuses_new_ones() -> None:
    running = RunningCalls()
    with running:
        drain = asyncio.ensure_future(running.drain(20))
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDownError), running:
            pass
        assert not drain.done()
        assert running.count == 1
    assert await drain


async def test_a_drain_gives_up_when_its_time_is_over() -> None:
    running = RunningCalls()
    with running:
        assert not await running.drain(0.001)


async def test_a_drain_tells_the_streams_that_are_open_to_stop_reading() -> None:
    running = RunningCalls()
    told: list[str] = []
    with running.until_draining(lambda: told.append("ended before")):
        pass
    with running.until_draining(lambda: told.append("open")):
        await running.drain(0.0)
    assert told == ["open"]
