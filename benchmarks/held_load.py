"""Contexts that are begun and then left alone, so that what they cost in memory can be seen."""

import asyncio
import time
from contextlib import AsyncExitStack

from benchmarks.load import Load
from benchmarks.samples import Clock, Measured
from benchmarks.stream_load import PREDICT, StreamLoad, connect, context_payload
from benchmarks.texts import texts

_WARM_UP_CONTEXTS = 512  # also held, but not counted: with them the server has met every batch size
_AT_A_TIME = 256
_SETTLE_S = 1.0


async def measure(load: Load) -> Measured:
    """Begins `load.callers` contexts of two words over streams and measures what the server's memory grows by."""
    async with AsyncExitStack() as stack:
        warm = await _begin(stack, load, _WARM_UP_CONTEXTS, seed=load.seed + 1)
        await asyncio.sleep(_SETTLE_S)
        clock = Clock(load.server_pid, warm.samples)
        for number in range(load.streams):
            stream = await _begin(stack, load, load.callers // load.streams, seed=load.seed + 2 + number)
            warm.samples.seconds += stream.samples.seconds
        await asyncio.sleep(_SETTLE_S)
        return clock.read()


async def _begin(stack: AsyncExitStack, load: Load, contexts: int, seed: int) -> StreamLoad:
    """Returns a stream that holds so many contexts, once all are answered."""
    words = texts([2] * contexts, seed, load.vocab_size)
    payloads = [[context_payload(slot, text, load, keep=load.keep)] for slot, text in enumerate(words)]
    stream = await connect(stack, load, PREDICT, payloads)
    left = contexts
    while (left or stream.running) and not stream.ended.done():
        take = min(left, _AT_A_TIME - stream.running)
        if take > 0:
            stream.begin([time.perf_counter()] * take)
            left -= take
        await asyncio.sleep(0.002)
    if stream.ended.done() or stream.refused.seconds:
        raise RuntimeError(f"not every context was begun: {stream.ended!r}")
    return stream
