"""Half an hour of everything, with reloads: memory, descriptors, threads and connections have to stay flat.

PYTHONPATH=tests python -m chaos.soak --minutes 30 --plot soak.png
"""

import asyncio
import itertools
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click

from bundles import WORDS, language_model_bundle, sentence_encoder_bundle
from hiddenstate import AsyncClient, HiddenstateError
from serve_process import ServeProcess, serve

_SPOKEN = [word for word in WORDS if word.isalpha()]
_SAMPLE_S = 1.0
_METRICS = ("hiddenstate_tasks", "hiddenstate_models_loaded", "hiddenstate_streams_open")
_SETTLED = 0.25  # of the time: until then caches fill and pools grow


# How much more there may be at the end: memory is flat, the rest goes up and down with the callers of the moment.
_SLACK = (("resident_mib", 1.10), ("descriptors", 1.25), ("threads", 1.25), ("tasks", 1.25), ("models", 1.25))


class Sample(NamedTuple):
    """What the server's process holds at a time."""

    minutes: float
    resident_mib: float
    descriptors: float
    threads: float
    tasks: float  # of its event loop
    models: float  # versions in memory, those included that still finish their work
    streams: float  # streams that the server has open
    calls: float  # that the clients have made


def sample(server: ServeProcess, started: float, calls: int) -> Sample:
    """Looks at the process."""
    proc = Path(f"/proc/{server.pid}")
    resident = int((proc / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    descriptors, threads = (len(list((proc / name).iterdir())) for name in ("fd", "task"))
    minutes = (time.monotonic() - started) / 60
    tasks, models, streams = map(server.metric, _METRICS)
    return Sample(minutes, resident, descriptors, threads, tasks, models, streams, calls)


class Load:
    """Callers that do what callers do, also badly, until they are told to stop."""

    def __init__(self, address: str, models: Path, *, pause_s: float, reload_s: float) -> None:
        """Each of 24 callers waits for `pause_s` between its calls; each version is replaced after `reload_s`."""
        self.calls = 0
        self.reloads = 0
        self._pause_s = pause_s
        self._reload_s = reload_s
        self._address = address
        self._models = models
        self._versions = itertools.count(2)
        self._draw = random.Random(6)

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """Returns what is to run."""
        ways: Sequence[Callable[[AsyncClient], Coroutine[Any, Any, None]]] = (
            self._predict,
            self._type,
            self._encode,
            self._generate,
            self._leave,
            self._ask_nonsense,
        )
        return [*(self._again(way) for way in ways for _ in range(4)), self._reload()]

    async def _again(self, way: Callable[[AsyncClient], Coroutine[Any, Any, None]]) -> None:
        while True:
            async with AsyncClient(self._address) as client:  # clients come and go as well
                for _ in range(200):
                    with suppress(HiddenstateError):
                        await way(client)
                    self.calls += 1
                    await asyncio.sleep(self._pause_s)

    async def _predict(self, client: AsyncClient) -> None:
        await client.predict(self._text(), model="tiny-lm")

    async def _type(self, client: AsyncClient) -> None:
        async with client.open_stream() as stream, stream.context(model="tiny-lm") as context:
            for word in self._text().split():
                await context.predict(word)

    async def _encode(self, client: AsyncClient) -> None:
        await client.encode([self._text() for _ in range(8)])

    async def _generate(self, client: AsyncClient) -> None:
        await client.generate(self._text(), max_tokens=10, model="tiny-lm").text()

    async def _leave(self, client: AsyncClient) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(client.predict(self._text(), model="tiny-lm"), self._draw.uniform(0, 0.01))

    async def _ask_nonsense(self, client: AsyncClient) -> None:
        await client.predict("I", model="no-such-model")

    async def _reload(self) -> None:
        """Publishes a version and takes away the one before, every few seconds."""
        for version in self._versions:
            await asyncio.sleep(self._reload_s / 2)
            await asyncio.to_thread(language_model_bundle, self._models, version=str(version))
            await asyncio.sleep(self._reload_s / 2)
            await asyncio.to_thread(shutil.rmtree, self._models / "tiny-lm" / str(version - 1))
            self.reloads += 1

    def _text(self) -> str:
        return " ".join(self._draw.choices(_SPOKEN, k=self._draw.randint(1, 12)))


async def soak(server: ServeProcess, load: Load, minutes: float) -> list[Sample]:
    """Runs the load and returns a sample for each second."""
    started, samples = time.monotonic(), []
    running = [asyncio.create_task(task) for task in load.tasks()]
    while time.monotonic() - started < 60 * minutes and not any(task.done() for task in running):
        await asyncio.sleep(_SAMPLE_S)
        samples.append(await asyncio.to_thread(sample, server, started, load.calls))
    for task in running:
        task.cancel()
    for ended in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    return samples


def growth(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """Returns the median of a quarter once things have settled, and that of the last quarter."""
    settled = samples[int(len(samples) * _SETTLED) :]
    quarter = max(1, len(settled) // 4)
    return _median(settled[:quarter], name), _median(settled[-quarter:], name)


def _median(samples: Sequence[Sample], name: str) -> float:
    values = sorted(float(getattr(each, name)) for each in samples)
    return values[len(values) // 2]


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Draws all numbers over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = Sample._fields[1:]
    figure, axes = pyplot.subplots(len(names), sharex=True, figsize=(9, 2 * len(names)))
    for axis, name in zip(axes, names, strict=True):
        axis.plot([each.minutes for each in samples], [getattr(each, name) for each in samples])
        axis.set_ylabel(name.replace("_", " ").replace("mib", "MiB"))
        axis.set_ylim(0, 1.1 * max(1.0, *(getattr(each, name) for each in samples)))
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(path)


@click.command()
@click.option("--minutes", default=30.0, show_default=True, help="How long.")
@click.option("--pause-ms", default=0.0, show_default=True, help="How long each of 24 callers waits between calls.")
@click.option("--plot", type=click.Path(path_type=Path), default=Path("soak.png"), show_default=True)
def main(minutes: float, pause_ms: float, plot: Path) -> None:
    """Load a server with everything while its model is replaced, and draw what it holds."""
    if find_spec("matplotlib") is None:  # not after half an hour
        raise click.UsageError("the plot needs matplotlib: pip install --group bench")
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        language_model_bundle(models)
        sentence_encoder_bundle(models)
        with serve(models, "--cache-bytes", "8MiB", "--log-calls", "none", "--unload-timeout-s", "5") as server:
            load = Load(server.address, models, pause_s=pause_ms / 1000, reload_s=10.0)
            samples = asyncio.run(soak(server, load, minutes))
    draw(samples, plot)
    click.echo(f"{samples[-1].calls:,.0f} calls, {load.reloads} reloads, {len(samples)} samples, {plot}")
    flat = True
    for name, slack in _SLACK:
        before, after = growth(samples, name)
        flat = flat and after <= before * slack
        click.echo(f"{name:12} {before:8.1f} -> {after:8.1f}  (may grow by {slack - 1:.0%})")
    if not flat:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
