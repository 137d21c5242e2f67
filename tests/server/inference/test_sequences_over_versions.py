"""Sequences go on with the version that they began with, after another one has taken its place."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bundles import language_model_bundle
from hiddenstate_server.inference import open_inference_pb2 as messages
from onnx_files import sum_model
from serving import Wire, serving, until
from tensor_requests import step, tensors


async def add(wire: Wire, id: int, *, start: bool = False, end: bool = False) -> tuple[str, float]:
    response = await wire.inference.ModelInfer(
        step("sum", {"x": np.ones((1, 1), np.float32)}, id, start=start, end=end)
    )
    return response.model_version, float(tensors(response)["total"][0, 0])


async def loaded(wire: Wire, name: str) -> None:
    await wire.inference.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name=name))


async def test_a_sequence_ends_where_it_began_and_its_version_ends_with_it(tmp_path: Path) -> None:
    sum_model(tmp_path)
    async with serving(tmp_path, watch_models="off") as wire:
        assert await add(wire, 7, start=True) == ("1", 1)
        shutil.copytree(tmp_path / "sum" / "1", tmp_path / "sum" / "2")
        await loaded(wire, "sum")
        assert await add(wire, 8, start=True) == ("2", 1)
        assert await add(wire, 7) == ("1", 2)
        assert await add(wire, 8) == ("2", 2)
        assert wire.metric("hiddenstate_models_loaded") == 2
        assert await add(wire, 7, end=True) == ("1", 3)
        await until(lambda: wire.metric("hiddenstate_models_loaded") == 1)
        assert await add(wire, 8, end=True) == ("2", 3)


async def test_a_sequence_that_begins_again_begins_with_the_new_version(tmp_path: Path) -> None:
    sum_model(tmp_path)
    async with serving(tmp_path, watch_models="off") as wire:
        assert await add(wire, 7, start=True) == ("1", 1)
        shutil.copytree(tmp_path / "sum" / "1", tmp_path / "sum" / "2")
        await loaded(wire, "sum")
        assert await add(wire, 7, start=True) == ("2", 1)
        assert await add(wire, 7) == ("2", 2)


@pytest.mark.parametrize("end", [True, False])
async def test_a_sequence_of_a_language_model_goes_on_too(tmp_path: Path, end: bool) -> None:
    language_model_bundle(tmp_path)
    async with serving(tmp_path, watch_models="off") as wire:

        async def say(word: bytes, *, start: bool = False, end: bool = False) -> str:
            message = step("tiny-lm", {"text": [word]}, 7, start=start, end=end)
            return str((await wire.inference.ModelInfer(message)).model_version)

        assert await say(b"I", start=True) == "1"
        language_model_bundle(tmp_path, version="2")
        await loaded(wire, "tiny-lm")
        assert await say(b"would", end=end) == "1"
        assert await say(b"like", start=end) == ("2" if end else "1")
