"""Loading and unloading while serving; what is wrong is reported, and what serves goes on."""

import asyncio
import gc
import json
import logging
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from bundles import language_model_bundle, sentence_encoder_bundle
from hiddenstate.v1.language_model_pb2 import PredictRequest, PredictStreamRequest, StreamedPredictRequest
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.context import Context, HeldContext
from hiddenstate_server.errors import (
    BundleError,
    ModelLoadError,
    ModelMemoryError,
    ModelNotFoundError,
    ShuttingDownError,
    UnsupportedError,
)
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.repository import IndexEntry, Repository
from serving import WAIT_S, Wire, failure, held, serving, until


class Opened:
    """A repository of one model, which is made to change."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.metrics = Metrics()
        loop = asyncio.get_running_loop()
        engine = EngineSettings(**settings)
        self.repository = Repository.open(folder, settings=engine, metrics=self.metrics, loop=loop)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"hiddenstate_{name}", labels) or 0.0

    def versions(self) -> list[str]:
        return [model.version for model in self.repository.models()]

    def state(self, version: str, name: str = "tiny-lm") -> IndexEntry:
        (entry,) = [each for each in self.repository.index() if (each.name, each.version) == (name, version)]
        return entry

    async def settled(self) -> None:
        """Returns when all versions that were replaced are closed, and what followed from that is done."""
        repository = self.repository
        async with asyncio.timeout(WAIT_S):
            while tasks := [*repository._retiring.values(), *repository._refreshes]:
                await asyncio.wait(tasks)


@pytest_asyncio.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    """Version 1 of a model, served."""
    language_model_bundle(tmp_path)
    opened = Opened(tmp_path)
    yield opened
    opened.repository.close()


def damage(folder: Path) -> None:
    """Makes a bundle one that is refused."""
    (folder / "weights.bin").write_bytes(b"not these")


async def test_a_new_version_takes_the_place_of_the_old_one(opened: Opened) -> None:
    language_model_bundle(opened.folder, version="2", seed=2)
    await opened.repository.refresh()
    assert opened.versions() == ["2"]
    await opened.settled()
    assert opened.state("2").state == "READY"
    assert opened.state("1") == ("tiny-lm", "1", "UNAVAILABLE", "not among the versions that its policy serves")
    assert opened.metric("models_loaded") == 1
    assert opened.metric("model_load_duration_seconds_count", model="tiny-lm") == 2
    size = sum(path.stat().st_size for path in (opened.folder / "tiny-lm" / "2").iterdir() if path.suffix != ".md")
    assert opened.metric("model_bytes", model="tiny-lm", version="2") == size


async def test_a_version_that_has_not_changed_is_not_loaded_again(opened: Opened) -> None:
    model = opened.repository.language_model()
    await opened.repository.refresh()
    await opened.repository.load("tiny-lm")
    assert opened.repository.language_model() is model
    assert opened.metric("model_load_duration_seconds_count", model="tiny-lm") == 1


async def test_the_same_version_with_other_files_replaces_itself(opened: Opened) -> None:
    before = await opened.repository.language_model().predict(Context(text="I would"))
    shutil.rmtree(opened.folder / "tiny-lm" / "1")
    language_model_bundle(opened.folder, seed=5)
    await opened.repository.refresh()
    after = await opened.repository.language_model().predict(Context(text="I would"))
    assert before.candidates != after.candidates
    await opened.settled()
    assert opened.metric("models_loaded") == 1
    assert opened.metric("tokens_computed_total", model="tiny-lm", version="1") > 0  # one name, one series


async def test_a_bad_new_version_is_reported_and_the_old_one_goes_on(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    damage(language_model_bundle(opened.folder, version="2"))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await opened.repository.refresh()
    assert opened.versions() == ["1"]
    assert (await opened.repository.language_model().predict(Context(text="I"))).candidates
    assert opened.state("1").state == "READY"
    bad = opened.state("2")
    assert bad.state == "UNAVAILABLE"
    assert "SHA-256" in bad.reason
    assert len([record for record in caplog.records if "tiny-lm version 2: " in record.getMessage()]) == 1
    assert opened.metric("model_load_failures_total", model="tiny-lm", reason="damaged") == 1


async def test_a_bad_version_is_tried_again_when_it_has_changed_or_when_a_call_asks(opened: Opened) -> None:
    damage(language_model_bundle(opened.folder, version="2"))
    for failures in (1, 2):
        with pytest.raises(ModelLoadError, match=r"version 2 cannot be loaded: .*; tiny-lm version 1 goes on being"):
            await opened.repository.load("tiny-lm")
        assert opened.metric("model_load_failures_total", model="tiny-lm", reason="damaged") == failures
    shutil.rmtree(opened.folder / "tiny-lm" / "2")
    language_model_bundle(opened.folder, version="2", seed=2)
    await opened.repository.refresh()
    assert opened.versions() == ["2"]


async def test_a_bad_copy_over_a_served_version_leaves_it_serving(opened: Opened) -> None:
    model = opened.repository.language_model()
    damage(opened.folder / "tiny-lm" / "1")
    await opened.repository.refresh()
    assert opened.repository.language_model() is model
    entry = opened.state("1")
    assert entry.state == "READY"
    assert entry.reason.startswith("what lies there now is refused: ")


async def test_at_start_an_older_version_is_served_where_the_newest_is_bad(tmp_path: Path) -> None:
    language_model_bundle(tmp_path, version="1")
    damage(language_model_bundle(tmp_path, version="2"))
    opened = Opened(tmp_path)
    assert opened.versions() == ["1"]
    assert opened.state("2").state == "UNAVAILABLE"
    opened.repository.close()


async def test_a_model_of_which_no_version_is_good_is_refused_at_start_and_no_thread_is_left(tmp_path: Path) -> None:
    language_model_bundle(tmp_path, name="a-good-one")
    damage(language_model_bundle(tmp_path))
    before = threading.active_count()
    with pytest.raises(BundleError, match="SHA-256"):
        Opened(tmp_path)
    assert threading.active_count() == before


async def test_an_error_that_nobody_foresaw_is_logged_and_its_text_kept_from_callers(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    language_model_bundle(opened.folder, version="2")
    monkeypatch.setattr("hiddenstate_server.repository.loader.load_bundle", lambda folder: 1 / 0)
    with pytest.raises(ModelLoadError, match="version 2 cannot be loaded: could not be loaded; the server's log"):
        await opened.repository.load("tiny-lm")
    assert "ZeroDivisionError" in caplog.text
    assert opened.metric("model_load_failures_total", model="tiny-lm", reason="failed") == 1


async def test_a_model_can_be_unloaded_and_loaded_by_call(opened: Opened) -> None:
    sentence_encoder_bundle(opened.folder)
    await opened.repository.refresh()
    await opened.repository.unload("tiny-lm")
    with pytest.raises(ModelNotFoundError, match="no model 'tiny-lm' answers this call; there is: none"):
        opened.repository.language_model("tiny-lm")
    language_model_bundle(opened.folder, version="2")
    await opened.repository.refresh()  # what was unloaded by call stays so
    await opened.settled()
    assert opened.versions() == ["1"]  # of the encoder
    assert opened.state("1").reason == "unloaded by a call"
    assert opened.metric("model_bytes", model="tiny-lm", version="1") == 0
    await opened.repository.load("tiny-lm")
    assert opened.repository.language_model().version == "2"


@pytest.mark.parametrize("method", ["load", "unload"])
async def test_a_model_that_is_not_there_cannot_be_loaded_or_unloaded(opened: Opened, method: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model_name: there is no model 'nobody' in the repository"):
        await getattr(opened.repository, method)("nobody")


@pytest.mark.parametrize("settings", [{"repository_calls": "off"}, {"workers": 2}, {"listen": "0.0.0.0:0"}])
@pytest.mark.parametrize("method", ["load", "unload"])
async def test_calls_that_load_and_unload_may_be_turned_off_and_are_where_they_reach_one_process_of_several(
    tmp_path: Path, settings: dict[str, Any], method: str
) -> None:
    language_model_bundle(tmp_path)
    async with serving(tmp_path, **settings) as wire:
        with pytest.raises(UnsupportedError, match=r"no models by call \(--repository-calls; "):
            await getattr(wire.server.repository, method)("tiny-lm")
        assert wire.server.repository.names() == ["tiny-lm"]


async def test_a_model_whose_folder_is_gone_is_unloaded(opened: Opened) -> None:
    sentence_encoder_bundle(opened.folder)
    await opened.repository.refresh()
    shutil.rmtree(opened.folder / "tiny-lm")
    await opened.repository.refresh()
    assert [model.name for model in opened.repository.models()] == ["tiny-encoder"]


@pytest.mark.parametrize("way", ["empty", "gone"])
async def test_a_volume_that_is_lost_takes_no_model_away(
    opened: Opened, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(opened.folder / "tiny-lm")
    if way == "gone":
        opened.folder.rmdir()
    await opened.repository.refresh()
    assert opened.versions() == ["1"]
    assert "what is served stays as it is" in caplog.text
    opened.folder.mkdir(exist_ok=True)


@pytest.mark.parametrize("version", ["1", "2"])
async def test_two_models_of_one_name_are_refused(opened: Opened, version: str) -> None:
    if version != "1":
        language_model_bundle(opened.folder, version=version)
    (opened.folder / "tiny-lm" / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=r"tiny-lm: has both model\.onnx and .*/, which are two models of one"):
        await opened.repository.load("tiny-lm")
    assert opened.versions() == ["1"]


async def test_a_version_that_is_two_kinds_of_model_is_refused(opened: Opened) -> None:
    folder = language_model_bundle(opened.folder, version="2")
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelLoadError, match=r"has both bundle\.json and model\.onnx"):
        await opened.repository.load("tiny-lm")


async def test_a_bundle_that_names_another_model_is_refused(opened: Opened) -> None:
    folder = language_model_bundle(opened.folder, version="2")
    document = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(document | {"name": "other"}))
    with pytest.raises(ModelLoadError, match=r"bundle\.json names other/2"):
        await opened.repository.load("tiny-lm")


async def test_what_would_take_too_much_memory_is_refused_until_there_is_room(tmp_path: Path) -> None:
    language_model_bundle(tmp_path)
    size = sum(path.stat().st_size for path in (tmp_path / "tiny-lm" / "1").iterdir())
    opened = Opened(tmp_path, max_models_memory=int(1.5 * size))
    language_model_bundle(tmp_path, name="another-lm")
    with pytest.raises(ModelMemoryError, match=r"another-lm version 1 has .* KiB, and .* KiB are left \(--max-models"):
        await opened.repository.load("another-lm")
    assert opened.metric("model_load_failures_total", model="another-lm", reason="memory") == 1
    await opened.repository.unload("tiny-lm")
    await opened.settled()  # the room that it leaves is used at once
    assert opened.state("1", "another-lm").state == "READY"
    opened.repository.close()


async def test_a_version_with_work_finishes_it_before_it_is_closed(opened: Opened) -> None:
    model = opened.repository.language_model()
    with held(model) as gate:
        answer = asyncio.create_task(model.predict(Context(text="I would")))
        await gate.reached()
        del model
        language_model_bundle(opened.folder, version="2")
        await opened.repository.refresh()
        assert opened.versions() == ["2"]
        assert opened.state("1").state == "UNLOADING"
        assert opened.metric("models_loaded") == 2
    assert (await answer).candidates
    await opened.settled()
    assert opened.metric("models_loaded") == 1


async def test_a_version_that_is_never_let_go_of_is_closed_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    language_model_bundle(tmp_path)
    opened = Opened(tmp_path, unload_timeout_s=0.01)
    model, context = opened.repository.language_model(), HeldContext()
    await model.predict(Context(text="I"), held=context)
    language_model_bundle(tmp_path, version="2")
    await opened.repository.refresh()
    await opened.settled()
    with pytest.raises(ShuttingDownError):
        await model.predict(Context(text="would"), held=context)
    assert "tiny-lm version 1 is still used after 0.01 s" in caplog.text
    opened.repository.close()


async def test_a_failed_call_does_not_keep_its_version(opened: Opened) -> None:
    gc.disable()
    try:
        with pytest.raises(Exception, match="deadline"):
            await opened.repository.language_model().predict(Context(text="I"), deadline=0.0)
        # The runner thread holds its last batch until the next one comes.
        await opened.repository.language_model().predict(Context(text="I"))
        language_model_bundle(opened.folder, version="2")
        await opened.repository.refresh()
        await opened.settled()
    finally:
        gc.enable()
    assert opened.metric("models_loaded") == 1


async def test_a_context_of_a_stream_stays_with_its_version(tmp_path: Path) -> None:
    language_model_bundle(tmp_path)
    async with serving(tmp_path, watch_models="off") as wire:
        call: Any = wire.language_model.PredictStream()
        assert await say(call, 1) == "1"
        language_model_bundle(tmp_path, version="2")
        await wire.server.repository.load("tiny-lm")
        assert await say(call, 1) == "1"
        assert await say(call, 2) == "2"
        assert wire.metric("hiddenstate_models_loaded") == 2
        assert await say(call, 1, close=True) == "1"
        await until(lambda: wire.metric("hiddenstate_models_loaded") == 1)
        assert await say(call, 2) == "2"


async def say(call: Any, context_id: int, *, close: bool = False) -> str:
    """Sends a word and returns the version that answered."""
    request = StreamedPredictRequest(
        request_id=1, context_id=context_id, close_context=close, predict=PredictRequest(text="the")
    )
    await call.write(PredictStreamRequest(requests=[request]))
    (response,) = (await call.read()).responses
    return str(response.response.model_version)


async def test_the_health_of_a_model_follows_what_is_served(tmp_path: Path) -> None:
    language_model_bundle(tmp_path)
    sentence_encoder_bundle(tmp_path)
    async with serving(tmp_path, watch_models="off") as wire:
        repository = wire.server.repository
        health = watch_health(wire, "tiny-lm")
        assert await anext(health) == HealthCheckResponse.SERVING
        await repository.unload("tiny-lm")
        assert await anext(health) == HealthCheckResponse.NOT_SERVING
        assert await anext(watch_health(wire, "tiny-encoder")) == HealthCheckResponse.SERVING
        error = await failure(wire.language_model.Predict(PredictRequest(text="I")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        await repository.load("tiny-lm")
        assert await anext(health) == HealthCheckResponse.SERVING


async def watch_health(wire: Wire, name: str) -> AsyncIterator[int]:
    """Yields what the health service says of a model, now and from now on."""
    stub: Any = HealthStub
    async for response in stub(wire.channel).Watch(HealthCheckRequest(service=name)):
        yield response.status
