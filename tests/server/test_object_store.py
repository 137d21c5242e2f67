"""Models in an object store (fsspec's own, in memory), and the folder in which they are kept."""

import asyncio
import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from bundles import language_model_bundle
from hiddenstate.v1.language_model_pb2 import PredictRequest
from hiddenstate_server.config import EngineSettings, Settings
from hiddenstate_server.errors import ConfigError, ModelLoadError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.repository import Repository
from hiddenstate_server.repository.object_store import ObjectStore
from hiddenstate_server.repository.source import open_source
from serving import serving

URL = "memory://bucket/models"


class Bucket:
    """What lies in the store."""

    def __init__(self, scratch: Path) -> None:
        self.store: Any = fsspec.filesystem("memory")
        self._scratch = scratch

    def publish(self, version: str, **options: Any) -> None:
        folder = language_model_bundle(self._scratch, version=version, seed=int(version), **options)
        self.store.put(str(folder), f"/bucket/models/tiny-lm/{version}", recursive=True)

    def write(self, path: str, data: bytes) -> None:
        self.store.pipe(f"/bucket/models/{path}", data)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    bucket = Bucket(tmp_path / "scratch")
    yield bucket
    bucket.store.store.clear()
    bucket.store.pseudo_dirs[:] = [""]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def open_repository(cache: Path) -> Repository:
    source, loop = open_source(URL, cache), asyncio.get_running_loop()
    return Repository.open(source, settings=EngineSettings(), metrics=Metrics(), loop=loop)


def kept(cache: Path) -> list[str]:
    """Names the versions that are kept, and what was left of others."""
    return sorted(path.name[:9] for path in cache.glob("*/*") if path.is_dir())


def only(cache: Path, pattern: str) -> Path:
    (path,) = cache.glob(pattern)
    return path


def grow_old(cache: Path) -> None:
    """Lets an hour pass since anything was used."""
    for place in cache.glob("*/*"):
        os.utime(place, (time.time() - 4000,) * 2)


async def test_models_of_a_store_are_served_and_new_ones_found(bucket: Bucket, cache: Path) -> None:
    bucket.publish("1")
    models: Any = URL
    async with serving(models, models_cache=cache, watch_models="off") as wire:
        assert (await wire.language_model.Predict(PredictRequest(text="I"))).model_version == "1"
        bucket.publish("2")
        bucket.publish("3")
        await wire.server.repository.refresh()
        assert (await wire.language_model.Predict(PredictRequest(text="I"))).model_version == "3"
    assert kept(cache) == ["tiny-lm-1", "tiny-lm-3"]  # what no policy asks for is not downloaded


async def test_what_was_downloaded_is_used_again(bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.publish("1")
    open_repository(cache).close()

    def refuse(*_: object) -> None:
        raise AssertionError("downloaded again")

    monkeypatch.setattr(type(bucket.store), "get_file", refuse)
    open_repository(cache).close()


async def test_a_kept_file_that_is_damaged_is_downloaded_again(
    bucket: Bucket, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.publish("1")
    open_repository(cache).close()
    weights = only(cache, "*/*/files/weights.bin")
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"x")
    open_repository(cache).close()
    assert weights.read_bytes() == good
    assert "is damaged (weights.bin): downloading it again" in caplog.text


async def test_a_download_that_breaks_off_leaves_nothing_and_is_tried_again(
    bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.publish("1")
    repository = open_repository(cache)
    bucket.publish("2")
    get_file = type(bucket.store).get_file

    def break_off(store: Any, path: str, target: str) -> None:
        get_file(store, path, target)
        if path.endswith("weights.bin"):
            Path(target).write_bytes(b"half")
            raise ConnectionError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket.store), "get_file", break_off)
        with pytest.raises(
            ModelLoadError, match="tiny-lm/2: cannot be downloaded: the line is dead; tiny-lm version 1"
        ):
            await repository.load("tiny-lm")
    assert kept(cache) == ["tiny-lm-1"]
    await repository.refresh()
    assert repository.find("tiny-lm").version == "2"
    repository.close()


async def test_a_download_without_room_leaves_nothing_is_told_once_and_tried_again(
    bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.publish("1")
    repository = open_repository(cache)
    bucket.publish("2")
    get_file = type(bucket.store).get_file

    def fill_up(store: Any, path: str, target: str) -> None:
        get_file(store, path, target)
        if path.endswith("weights.bin"):
            Path(target).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", target)

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(type(bucket.store), "get_file", fill_up)
        for _ in range(3):
            await repository.refresh()
        assert repository.find("tiny-lm").version == "1"
        assert kept(cache) == ["tiny-lm-1"]
        states = {entry.version: entry for entry in repository.index()}
        assert states["2"].state == "UNAVAILABLE"
        assert "(No space left on device): free some" in states["2"].reason
        assert caplog.text.count("has no room for") == 1
    await repository.refresh()
    assert repository.find("tiny-lm").version == "2"
    repository.close()


async def test_what_has_no_room_is_not_even_downloaded(
    bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.publish("1")
    free = shutil.disk_usage(cache.parent)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(type(bucket.store), "get_file", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(
        ConfigError, match=r"tiny-lm version 1: --models-cache .*cache: has no room for the [\d,]+ bytes"
    ):
        open_repository(cache)


@pytest.mark.parametrize("arrives", [b"half", b""])
async def test_a_file_that_arrives_incomplete_is_not_used(
    bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch, arrives: bytes
) -> None:
    bucket.publish("1")
    monkeypatch.setattr(type(bucket.store), "get_file", lambda _, path, target: Path(target).write_bytes(arrives))
    with pytest.raises(ConfigError, match=rf"{len(arrives)} bytes of .* arrived; it is tried again"):
        open_repository(cache)
    assert kept(cache) == []


async def test_a_file_that_changes_while_it_is_downloaded_is_not_used(
    bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.publish("1")
    get_file = type(bucket.store).get_file

    def replaced(store: Any, path: str, target: str) -> None:
        get_file(store, path, target)
        bucket.write("tiny-lm/1/bundle.json", b"{}")

    monkeypatch.setattr(type(bucket.store), "get_file", replaced)
    with pytest.raises(ConfigError, match=r"bundle\.json: was changed while it was downloaded"):
        open_repository(cache)
    assert kept(cache) == []


async def test_names_that_would_lead_out_of_the_folder_are_left_out(bucket: Bucket, cache: Path) -> None:
    bucket.publish("1")
    for path in ("../evil/1/bundle.json", "tiny-lm/../2/bundle.json", ".hidden/1/bundle.json", "a/b/c/bundle.json"):
        bucket.write(path, b"{}")
    assert set(ObjectStore(URL, cache).scan()) == {"tiny-lm"}


async def test_a_policy_in_the_store_counts(bucket: Bucket, cache: Path) -> None:
    bucket.publish("1")
    bucket.publish("2")
    bucket.write("tiny-lm/repository.toml", b'[labels]\nstable = "1"')
    repository = open_repository(cache)
    assert repository.find("tiny-lm", "stable").version == "1"
    assert repository.find("tiny-lm").version == "2"
    repository.close()


async def test_a_store_that_fails_takes_no_model_away(
    bucket: Bucket, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.publish("1")
    repository = open_repository(cache)

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(type(bucket.store), "find", fail)
    await repository.refresh()
    assert repository.find("tiny-lm").version == "1"
    assert f"--models {URL}: cannot be read: no route to host; what is served stays as it is" in caplog.text
    with pytest.raises(ConfigError, match="no route to host"):
        open_repository(cache)
    repository.close()


async def test_versions_that_nobody_uses_are_deleted_after_an_hour(bucket: Bucket, cache: Path) -> None:
    bucket.publish("1")
    repository = open_repository(cache)
    bucket.publish("2")
    await repository.load("tiny-lm")
    await asyncio.gather(*repository._retiring.values())
    await repository.refresh()
    assert kept(cache) == ["tiny-lm-1", "tiny-lm-2"]
    grow_old(cache)
    await repository.refresh()
    assert kept(cache) == ["tiny-lm-2"]
    repository.close()


async def test_a_folder_for_models_that_cannot_be_written_is_told(bucket: Bucket, tmp_path: Path) -> None:
    bucket.publish("1")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"tiny-lm version 1: .*/file/.*: cannot be read: Not a directory"):
        open_repository(tmp_path / "file")
    shutil.rmtree(tmp_path / "scratch")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/models", r"needs another library: pip install 'hiddenstate\[s3\]'"),
        ("gs://bucket/models", r"needs another library: pip install 'hiddenstate\[gcs\]'"),
        ("az://bucket/models", r"needs another library: pip install 'hiddenstate\[azure\]'"),
        ("nothing://bucket", "Protocol not known: nothing"),
    ],
)
def test_a_store_that_cannot_be_read_here_says_what_is_missing(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--models {url}: {message}"):
        open_source(url, tmp_path)


def test_a_url_is_no_path() -> None:
    assert Settings(models=URL).models == URL
