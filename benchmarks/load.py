"""The load generator: a process of its own that puts one kind of load on a server and prints what it measured.

Started by the benchmarks as `python -m benchmarks.load JSON`; the JSON is a `Load`.
"""

import asyncio
import dataclasses
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Literal

import grpc
import uvloop

from benchmarks.cpu import name_threads
from benchmarks.http2_load import Http2Load
from benchmarks.http_load import HttpLoad
from benchmarks.processes import output
from benchmarks.samples import Clock, Measured, Samples
from benchmarks.stream_load import StreamLoad
from benchmarks.texts import context, natural_sentences, sentences
from hiddenstate import AsyncClient, Client
from hiddenstate.v1.language_model_pb2 import PredictRequest, ScoreRequest
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest

Kind = Literal["encode", "predict", "score", "http", "tasks", "threads", "predict-tasks", "bulk", "contexts"]

_ENCODE = "/hiddenstate.v1.SentenceEncoderService/Encode"
_PREDICT = "/hiddenstate.v1.LanguageModelService/Predict"
_SCORE = "/hiddenstate.v1.LanguageModelService/Score"
_TEXTS = 4096
_ANSWER_S = 15.0  # the most that is waited for the last answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What to ask of whom."""

    kind: Kind
    address: str
    server_pid: int  # whose processor time counts as the server's
    callers: int = 1  # at a time
    seconds: float = 2.0
    warm_up_s: float = 0.7
    seed: int = 1
    num_words: int = 1  # of a predicted or scored context
    vocab_size: int = 20_000
    per_s: float = 0.0  # calls begun each second, whether or not others have ended; 0 keeps `callers` busy
    timeout_s: float | None = None
    sentences: int = 20_000  # of a bulk
    streams: int = 1
    top_k: int = 5


def measure(load: Load) -> Measured:
    """Runs a load in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load", json.dumps(dataclasses.asdict(load))]
    return Measured(**json.loads(output(command, timeout_s=60 + load.seconds * 3)))


async def _unary(load: Load) -> Measured:
    method, payloads = _calls(load)
    if load.kind == "predict" and load.num_words > 1:
        async with AsyncClient(load.address) as client:
            await client.predict(_beginning(load))
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Http2Load(method, payloads, load.timeout_s), *_host_port(load.address)
    )
    if load.per_s:
        return await _paced(load, connection)
    connection.begin(load.callers, again=True)
    await asyncio.sleep(load.warm_up_s)
    clock = Clock(connection.samples, load.server_pid)
    await asyncio.sleep(load.seconds)
    return clock.read(connection.refused)


async def _paced(load: Load, connection: Http2Load) -> Measured:
    """Begins calls at a rate, as callers do who know nothing of each other."""
    clock, begun, started = Clock(connection.samples, load.server_pid), 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < load.seconds:
        due = int(passed * load.per_s) - begun
        connection.begin(due, again=False)
        begun += due
        await asyncio.sleep(0.001)
    measured = clock.read(connection.refused)
    until = time.perf_counter() + _ANSWER_S
    while connection.running and time.perf_counter() < until:  # noqa: ASYNC110 - simpler than an event, and bounded
        await asyncio.sleep(0.01)
    late = clock.read(connection.refused)  # quantiles of all that were begun, the rate of those that ended in time
    return dataclasses.replace(late, per_s=measured.per_s)


async def _http(load: Load) -> Measured:
    samples, payloads = Samples(), itertools.cycle([text.encode() for text in sentences(_TEXTS, load.seed)])
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: HttpLoad("/inference", payloads, samples), *_host_port(load.address)))[1]
        for _ in range(load.callers)
    ]
    await asyncio.sleep(load.warm_up_s)
    clock = Clock(samples, load.server_pid)
    await asyncio.sleep(load.seconds)
    measured = clock.read()
    for connection in connections:
        connection.stop()
    return measured


async def _tasks(load: Load) -> Measured:
    """Concurrent calls of the thin client, one sentence each."""
    samples, texts = Samples(), itertools.cycle(sentences(_TEXTS, load.seed))

    async def call(client: AsyncClient) -> None:
        await client.encode(next(texts))

    return await _in_tasks(load, samples, call)


async def _predict_tasks(load: Load) -> Measured:
    """Concurrent calls of the thin client, one context each."""
    samples, chooser = Samples(), random.Random(load.seed)

    async def call(client: AsyncClient) -> None:
        await client.predict(context(load.num_words, chooser.randrange(2**31), load.vocab_size), top_k=load.top_k)

    return await _in_tasks(load, samples, call)


async def _in_tasks(load: Load, samples: Samples, call: Callable[[AsyncClient], Awaitable[None]]) -> Measured:
    async def caller(client: AsyncClient) -> None:
        while True:
            begun = time.perf_counter()
            await call(client)
            samples.add(time.perf_counter() - begun)

    async with AsyncClient(load.address) as client:
        callers = [asyncio.create_task(caller(client)) for _ in range(load.callers)]
        await asyncio.sleep(load.warm_up_s)
        clock = Clock(samples, load.server_pid)
        await asyncio.sleep(load.seconds)
        measured = clock.read()
        for task in callers:
            task.cancel()
        await asyncio.wait(callers)
    return measured


def _threads(load: Load) -> Measured:
    """Concurrent calls of the thin client from threads."""
    samples, texts, over = Samples(), sentences(_TEXTS, load.seed), threading.Event()

    def caller(client: Client, first: int) -> None:
        for text in itertools.cycle(texts[first:] + texts[:first]):
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
        clock = Clock(samples, load.server_pid)
        time.sleep(load.seconds)
        measured = clock.read()
        over.set()
        for thread in callers:
            thread.join()
    return measured


def _bulk(load: Load) -> Measured:
    """One call of the thin client for many sentences of natural length mix."""
    texts, samples = natural_sentences(load.sentences, load.seed), Samples()
    with Client(load.address, timeout_s=60) as client:
        client.encode(texts[: load.sentences // 10])
        clock, begun = Clock(samples, load.server_pid), time.perf_counter()
        client.encode(texts)
        samples.add(time.perf_counter() - begun)
        return clock.read(times=load.sentences)


async def _contexts(load: Load) -> Measured:
    options = [("grpc.use_local_subchannel_pool", 1)]
    words = itertools.cycle(context(_TEXTS, load.seed, load.vocab_size).split())
    async with grpc.aio.insecure_channel(load.address, options) as channel:
        streams = [StreamLoad(channel, load.callers // load.streams, words, load.top_k) for _ in range(load.streams)]
        running = [asyncio.create_task(stream.run()) for stream in streams]
        for stream in streams[1:]:
            stream.samples = streams[0].samples
        await asyncio.sleep(load.warm_up_s)
        clock = Clock(streams[0].samples, load.server_pid)
        await asyncio.wait(running, timeout=load.seconds)
        measured = clock.read()
        for stream in streams:
            stream.stop()
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError):
                raise RuntimeError(f"a stream ended: {ended!r}")
    return measured


def _calls(load: Load) -> tuple[str, list[bytes]]:
    if load.kind == "encode":
        requests = [EncodeRequest(sentences=[text]) for text in sentences(_TEXTS, load.seed)]
        return _ENCODE, [request.SerializeToString() for request in requests]
    texts = [context(load.num_words, load.seed + number, load.vocab_size) for number in range(_TEXTS // 4)]
    if load.kind == "score":
        return _SCORE, [ScoreRequest(text=text).SerializeToString() for text in texts]
    if load.num_words > 1:  # all but the last word are the same, so the server can know what they lead to
        texts = [f"{_beginning(load)} {text.rpartition(' ')[2]}" for text in texts]
    return _PREDICT, [PredictRequest(text=text, top_k=load.top_k).SerializeToString() for text in texts]


def _beginning(load: Load) -> str:
    return context(load.num_words - 1, load.seed, load.vocab_size)


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


_KINDS: dict[Kind, Callable[[Load], "Measured | Awaitable[Measured]"]] = {
    "encode": _unary,
    "predict": _unary,
    "score": _unary,
    "http": _http,
    "tasks": _tasks,
    "predict-tasks": _predict_tasks,
    "threads": _threads,
    "bulk": _bulk,
    "contexts": _contexts,
}


def main() -> None:
    """Runs the load that the command line names."""
    load = Load(**json.loads(sys.argv[1]))
    name_threads()

    async def run() -> Measured:
        result = _KINDS[load.kind](load)
        return result if isinstance(result, Measured) else await result

    print(json.dumps(dataclasses.asdict(uvloop.run(run()))))


if __name__ == "__main__":
    main()
