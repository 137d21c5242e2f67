"""Versions are replaced while calls go on, and nothing of the old ones is left behind."""

import asyncio
import gc
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np

from bundles import language_model_bundle, sentence_encoder_bundle
from hiddenstate.v1.language_model_pb2 import (
    GenerateRequest,
    PredictRequest,
    PredictStreamRequest,
    StreamedPredictRequest,
)
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from hiddenstate_server.prefix_cache import _ENTRY_OVERHEAD_BYTES
from hiddenstate_server.repository import Repository
from hiddenstate_server.scheduler import Scheduler
from onnx_files import sum_model
from serving import WAIT_S, Wire, serving, until
from tensor_requests import step, tensors

SWAPS = 20


def runners() -> list[str]:
    """Names the threads that run models."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("run-"))


async def unloaded(repository: Repository) -> None:
    """Returns when all versions that were replaced are closed."""
    async with asyncio.timeout(WAIT_S):
        while ending := [*repository._retiring.values()]:
            await asyncio.wait(ending)


async def test_calls_without_pause_outlive_twenty_swaps_and_nothing_is_left(tmp_path: Path) -> None:
    language_model_bundle(tmp_path, version="0")
    sentence_encoder_bundle(tmp_path, version="0")
    sum_model(tmp_path)
    (tmp_path / "sum" / "1").rename(tmp_path / "sum" / "0")
    async with serving(tmp_path, watch_models="off", unload_timeout_s=WAIT_S) as wire:
        repository = wire.server.repository
        before = runners()
        answered: set[str] = set()
        calls = [asyncio.create_task(call(wire, answered)) for call in CALLS * 2]
        for version in range(1, SWAPS + 1):
            language_model_bundle(tmp_path, version=str(version), seed=version)
            sentence_encoder_bundle(tmp_path, version=str(version), seed=version)
            copy(tmp_path / "sum" / "0", tmp_path / "sum" / str(version))
            await asyncio.gather(*(repository.load(name) for name in ("tiny-lm", "tiny-encoder", "sum")))
            assert {model.version for model in repository.models()} == {str(version)}
            # Every kind of call has been answered by this version before the next comes.
            await until_woken(
                lambda version=version: {f"{call.__name__} {version}" for call in CALLS} <= answered, calls
            )
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [result for result in results if not isinstance(result, asyncio.CancelledError)] == []
        await unloaded(repository)
        assert before
        assert runners() == [name.removesuffix("-0") + f"-{SWAPS}" for name in before]
        gc.collect()
        assert len([each for each in gc.get_objects() if type(each) is Scheduler and runs(each)]) == 3
        assert wire.metric("hiddenstate_models_loaded") == 3
        assert set(repository.cache._models) == {repository.language_model().bundle.fingerprint}
        assert set(repository.cache._lengths) == set(repository.cache._models.values())
        assert repository.cache.bytes == sum(
            len(state) + _ENTRY_OVERHEAD_BYTES for state in repository.cache._states.values()
        )
        assert wire.metric("hiddenstate_model_bytes", model="tiny-lm", version="3") == 0
        assert wire.metric("hiddenstate_tokens_computed_total", model="tiny-lm", version="3") == 0


def runs(scheduler: Scheduler) -> bool:
    """Whether a scheduler's threads have not ended."""
    return any(thread.is_alive() for thread in scheduler._threads)


async def until_woken(condition: Any, tasks: list[asyncio.Task[None]]) -> None:
    """Returns when a condition holds; fails when a task fails."""
    await until(lambda: condition() or any(task.done() for task in tasks))
    for task in tasks:
        if task.done():
            task.result()


async def predict(wire: Wire, answered: set[str]) -> None:
    while True:
        response = await wire.language_model.Predict(PredictRequest(text="I would like to thank the"))
        answered.add(f"predict {response.model_version}")


async def generate(wire: Wire, answered: set[str]) -> None:
    while True:
        request = GenerateRequest(text="I would", max_tokens=8, temperature=0)
        response = [response async for response in wire.language_model.Generate(request)][-1]
        answered.add(f"generate {wire.server.repository.language_model().version if response else ''}")


async def encode(wire: Wire, answered: set[str]) -> None:
    while True:
        response = await wire.sentence_encoder.Encode(EncodeRequest(sentences=["The car was new.", "The time"]))
        answered.add(f"encode {response.model_version}")


async def stream(wire: Wire, answered: set[str]) -> None:
    """Writes a context of three messages again and again, over one stream; each context stays with one version."""
    call: Any = wire.language_model.PredictStream()
    context_id = 0
    while True:
        context_id += 1
        versions = []
        for word, close in (("I", False), ("would", False), ("like", True)):
            request = StreamedPredictRequest(
                request_id=1, context_id=context_id, close_context=close, predict=PredictRequest(text=word)
            )
            await call.write(PredictStreamRequest(requests=[request]))
            (response,) = (await call.read()).responses
            assert not response.HasField("error"), response.error
            versions.append(response.response.model_version)
        assert len(set(versions)) == 1
        answered.add(f"stream {versions[0]}")


async def sequence(wire: Wire, answered: set[str]) -> None:
    """Adds up three numbers again and again, the sum being kept on the server; a sequence stays with one version."""
    id = f"sequence of {id_of_task()}"
    while True:
        responses = [
            await wire.inference.ModelInfer(
                step("sum", {"x": np.array([[number]], np.float32)}, id, start=number == 1, end=number == 3)
            )
            for number in (1, 2, 3)
        ]
        assert [float(tensors(response)["total"][0, 0]) for response in responses] == [1, 3, 6]
        (version,) = {response.model_version for response in responses}
        answered.add(f"sequence {version}")


def id_of_task() -> int:
    return id(asyncio.current_task())


def copy(folder: Path, target: Path) -> None:
    """Puts a version there as publishers do: all at once."""
    partial = shutil.copytree(folder, folder.parent / ".partial")
    partial.rename(target)


CALLS = (predict, generate, encode, stream, sequence)
