"""The thin client: what a program's calls of `encode` get, the client's own cost included."""

import asyncio
import itertools
import threading
import time

from benchmarks.load import Load
from benchmarks.samples import Clock, Measured, Samples
from benchmarks.texts import natural_lengths, sentences, texts
from hiddenstate import AsyncClient, Client

_SENTENCES = 4096


async def tasks(load: Load) -> Measured:
    """Measures concurrent calls from tasks, one sentence each."""
    samples, cycle = Samples(), itertools.cycle(sentences(_SENTENCES, load.seed))

    async def caller(client: AsyncClient) -> None:
        while True:
            begun = time.perf_counter()
            await client.encode(next(cycle))
            samples.add(time.perf_counter() - begun)

    async with AsyncClient(load.address) as client:
        callers = [asyncio.create_task(caller(client)) for _ in range(load.callers)]
        await asyncio.sleep(load.warm_up_s)
        clock = Clock(load.server_pid, samples)
        await asyncio.wait(callers, timeout=load.seconds, return_when=asyncio.FIRST_COMPLETED)
        measured = clock.read()
        for task in callers:
            task.cancel()
        ended = await asyncio.gather(*callers, return_exceptions=True)
    if failed := [error for error in ended if not isinstance(error, asyncio.CancelledError)]:
        raise RuntimeError(f"a call failed: {failed[0]!r}")
    return measured


def threads(load: Load) -> Measured:
    """Measures concurrent calls from threads, one sentence each."""
    samples, cycle, over = Samples(), sentences(_SENTENCES, load.seed), threading.Event()

    def caller(client: Client, first: int) -> None:
        for text in itertools.cycle(cycle[first:] + cycle[:first]):
            begun = time.perf_counter()
            client.encode(text)
            samples.add(time.perf_counter() - begun)
            if over.is_set():
                return

    with Client(load.address) as client:
        callers = [threading.Thread(target=caller, args=(client, first)) for first in range(load.callers)]
        for thread in callers:
            thread.start()
        time.sleep(load.warm_up_s)
        clock = Clock(load.server_pid, samples)
        time.sleep(load.seconds)
        measured = clock.read()
        over.set()
        for thread in callers:
            thread.join()
    return measured


def bulk(load: Load) -> Measured:
    """Measures one call for many sentences of natural length mix."""
    many, samples = texts(natural_lengths(load.sentences, load.seed), load.seed), Samples()
    with Client(load.address, timeout_s=120) as client:
        client.encode(many[: load.sentences // 20])
        clock, begun = Clock(load.server_pid, samples), time.perf_counter()
        client.encode(many)
        samples.add(time.perf_counter() - begun)
        return clock.read(times=load.sentences)
