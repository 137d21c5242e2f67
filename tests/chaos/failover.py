"""Ends one of two servers in the middle of things, again and again; its clients have to go on as if nothing was.

    PYTHONPATH=tests python -m chaos.failover --rounds 10

Each round starts two servers of a tiny model. A short form of each runs in the tests.
"""

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from bundles import WORDS, language_model_bundle, sentence_encoder_bundle
from hiddenstate import AsyncClient, Candidate, GeneratedWord, Prediction, Usage
from serve_process import ServeProcess, serve

_SPOKEN = [word for word in WORDS if word.isalpha()]
_TOLERANCE = 1e-5  # of log probabilities, which depend a little on who shares a batch

Words = list[list[Prediction]]
End = Callable[[], None]
Way = Callable[[Sequence[str], list[list[str]], End], Coroutine[Any, Any, Words]]


class Middle:
    """Calls `end` once half of what is to come has come."""

    def __init__(self, total: int, end: End) -> None:
        self._left = total // 2
        self._end = end

    def step(self) -> None:
        """Counts one."""
        self._left -= 1
        if self._left == 0:
            self._end()


def nothing() -> None:
    """Ends no server."""


def texts(count: int, words: int) -> list[list[str]]:
    """Draws texts, always the same."""
    draws = np.random.default_rng(6).integers(len(_SPOKEN), size=(count, words))
    return [[_SPOKEN[draw] for draw in row] for row in draws]


async def type_on_streams(addresses: Sequence[str], typed: list[list[str]], end: End) -> Words:
    """Types each text into a context on a stream of its own, all at once, and returns what was predicted."""
    middle = Middle(sum(map(len, typed)), end)

    async def one(client: AsyncClient, text: list[str]) -> list[Prediction]:
        predictions = []
        async with client.open_stream() as stream, stream.context() as context:
            for word in text:
                predictions.append(await context.predict(word, top_k=3))
                middle.step()
        return predictions

    async with AsyncClient(addresses, timeout_s=60.0) as client:
        return await asyncio.gather(*(one(client, text) for text in typed))


async def ask_all_ways(addresses: Sequence[str], typed: list[list[str]], end: End) -> Words:
    """Asks for the next word after each beginning of each text by calls that share streams, beside vectors, scores
    and models by calls of their own.
    """
    middle = Middle(sum(map(len, typed)), end)
    alone = asyncio.Semaphore(32)  # a server turns away calls that ride on no stream where hundreds come at once

    async def one(client: AsyncClient, text: list[str]) -> list[Prediction]:
        predictions = []
        for count in range(1, len(text) + 1):
            beginning = " ".join(text[:count])
            predictions.append(await client.predict(beginning, top_k=3))
            await client.encode([beginning])
            async with alone:
                await asyncio.gather(client.score(beginning), client.models())
            middle.step()
        return predictions

    async with AsyncClient(addresses, timeout_s=60.0) as client:
        return await asyncio.gather(*(one(client, text) for text in typed))


async def write_texts(addresses: Sequence[str], typed: list[list[str]], end: End) -> Words:
    """Continues each text, every other one by the likeliest words, the rest by words that are drawn."""
    middle = Middle(20 * len(typed), end)

    async def one(client: AsyncClient, number: int, text: list[str]) -> list[Prediction]:
        words = []
        beginning, temperature = " ".join(text), float(number % 2)
        async for word in client.generate(beginning, max_tokens=40, temperature=temperature, seed=number):
            words.append(word)
            middle.step()
        return [_as_prediction(word) for word in words]

    async with AsyncClient(addresses, timeout_s=60.0) as client:
        return await asyncio.gather(*(one(client, number, text) for number, text in enumerate(typed)))


def _as_prediction(word: GeneratedWord) -> Prediction:
    candidate = Candidate(word.word, word.log_prob, word.token_id)
    return Prediction(candidates=(candidate,), state=None, usage=Usage(0, 0, 0, 0), model="", model_version="")


def differences(one: Words, other: Words) -> int:
    """Counts the predictions with other words, or log probabilities further apart than batches explain."""
    pairs = [pair for rows in zip(one, other, strict=True) for pair in zip(*rows, strict=True)]
    return sum(not _are_same(*pair) for pair in pairs)


def _are_same(one: Prediction, other: Prediction) -> bool:
    if [each.word for each in one.candidates] != [each.word for each in other.candidates]:
        return False
    apart = [abs(a.log_prob - b.log_prob) for a, b in zip(one.candidates, other.candidates, strict=True)]
    return max(apart) <= _TOLERANCE


def disturbed(
    way: Way,
    models: Path,
    typed: list[list[str]],
    number: signal.Signals,
) -> tuple[Words, ServeProcess]:
    """Runs against two servers, one of which gets a signal in the middle; returns the words and that server."""
    with serve(models) as ended, serve(models) as other:
        addresses = [ended.address, other.address]
        return asyncio.run(way(addresses, typed, lambda: ended.signal(number))), _exited(ended)


def _exited(server: ServeProcess) -> ServeProcess:
    server.exit_code()
    return server


def undisturbed(way: Way, models: Path, typed: list[list[str]]) -> Words:
    """Runs against one server that is left alone."""
    with serve(models) as server:
        return asyncio.run(way([server.address], typed, nothing))


_WAYS: dict[str, Way] = {"streams": type_on_streams, "calls": ask_all_ways, "texts": write_texts}
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}


@click.command()
@click.option("--rounds", default=3, show_default=True, help="How often each is done.")
@click.option("--streams", default=200, show_default=True, help="Streams, or callers, at a time.")
@click.option("--words", default=40, show_default=True, help="Words that each types.")
def main(rounds: int, streams: int, words: int) -> None:
    """Kill or end one of two servers in the middle of streams and calls."""
    typed = texts(streams, words)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        language_model_bundle(models)
        sentence_encoder_bundle(models)
        for name, way in _WAYS.items():
            wanted = undisturbed(way, models, typed)
            for signal_name, number in _SIGNALS.items():
                for _ in range(rounds):
                    started = time.monotonic()
                    words_, server = disturbed(way, models, typed, number)
                    different = differences(words_, wanted)
                    seconds = time.monotonic() - started
                    click.echo(
                        f"{signal_name:4} {name:7} {streams} x {words} words: {different} differ, no call failed, "
                        f"exit code {server.exit_code()}, {seconds:.1f} s"
                    )
                    if different:
                        raise SystemExit(1)


if __name__ == "__main__":
    main()
