"""Changes of the folder are heard of without looking for them."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bundles import language_model_bundle
from hiddenstate.v1.language_model_pb2 import PredictRequest
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import ModelNotFoundError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.repository import Repository
from hiddenstate_server.repository.watching import Watch, watch
from serving import WAIT_S, serving


class Heard:
    """Wakes up whenever a repository has looked at its models."""

    def __init__(self, repository: Repository) -> None:
        self._news = asyncio.Event()
        repository.listen(lambda name, is_served: self._news.set())

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await self._news.wait()
                self._news.clear()


@asynccontextmanager
async def watched(folder: Path, how: Watch, interval_s: float = 3600.0) -> AsyncIterator[tuple[Repository, Heard]]:
    loop = asyncio.get_running_loop()
    repository = Repository.open(folder, settings=EngineSettings(), metrics=Metrics(), loop=loop)
    heard = Heard(repository)
    watching = asyncio.create_task(watch(repository, how=how, interval_s=interval_s))
    try:
        yield repository, heard
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        repository.close()


async def test_new_versions_are_heard_of_one_after_the_other_and_so_is_a_folder_that_goes(tmp_path: Path) -> None:
    language_model_bundle(tmp_path, version="1")
    async with watched(tmp_path, "events") as (repository, heard):
        for version in ("2", "3"):
            publish(tmp_path, version)
            await heard.until(lambda version=version: repository.find("tiny-lm").version == version)
        shutil.rmtree(tmp_path / "tiny-lm" / "3")
        await heard.until(lambda: repository.find("tiny-lm").version == "2")
        language_model_bundle(tmp_path, name="another-lm")
        await heard.until(lambda: "another-lm" in repository.names())


async def test_a_version_that_came_while_the_others_were_loaded_is_seen(tmp_path: Path) -> None:
    language_model_bundle(tmp_path, version="1")
    loop = asyncio.get_running_loop()
    repository = Repository.open(tmp_path, settings=EngineSettings(), metrics=Metrics(), loop=loop)
    heard = Heard(repository)
    publish(tmp_path, "2")
    watching = asyncio.create_task(watch(repository, how="events", interval_s=3600.0))
    await heard.until(lambda: repository.find("tiny-lm").version == "2")
    watching.cancel()
    await asyncio.wait({watching})
    repository.close()


async def test_a_folder_that_tells_nothing_is_looked_at_now_and_then(tmp_path: Path) -> None:
    language_model_bundle(tmp_path, version="1")
    async with watched(tmp_path, "poll", interval_s=0.01) as (repository, heard):
        publish(tmp_path, "2")
        await heard.until(lambda: repository.find("tiny-lm").version == "2")


async def test_a_system_that_cannot_watch_is_asked_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr("watchfiles.awatch", refuse)
    language_model_bundle(tmp_path, version="1")
    async with watched(tmp_path, "events", interval_s=0.01) as (repository, heard):
        publish(tmp_path, "2")
        await heard.until(lambda: repository.find("tiny-lm").version == "2")
    assert "cannot be watched: OS file watch limit reached.; looking for changes every 0.01 s" in caplog.text


async def test_what_is_not_watched_stays_until_a_call_loads_it(tmp_path: Path) -> None:
    language_model_bundle(tmp_path, version="1")
    async with watched(tmp_path, "off") as (repository, _):
        publish(tmp_path, "2")
        with pytest.raises(ModelNotFoundError):
            repository.find("tiny-lm", "2")
        await repository.load("tiny-lm")
        assert repository.find("tiny-lm").version == "2"


async def test_a_server_watches_unless_told_otherwise(tmp_path: Path) -> None:
    language_model_bundle(tmp_path, version="1")
    async with serving(tmp_path) as wire:
        heard = Heard(wire.server.repository)
        publish(tmp_path, "2")
        await heard.until(lambda: wire.server.repository.find("tiny-lm").version == "2")
        assert (await wire.language_model.Predict(PredictRequest(text="I"))).model_version == "2"


def publish(folder: Path, version: str) -> None:
    """Puts a version there as publishers do: all at once."""
    made = language_model_bundle(folder / ".elsewhere", version=version, seed=int(version))
    made.rename(folder / "tiny-lm" / version)
