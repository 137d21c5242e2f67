"""RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio

from hiddenstate_server.inference import open_inference_pb2 as messages
from onnx_files import scale_model, sum_model
from serving import Wire, failure, serving
from tensor_requests import request, step, tensors


@pytest_asyncio.fixture
async def wire_of(tmp_path: Path) -> AsyncIterator[Wire]:
    """A server of `scale` and `sum` that hears of changes by calls alone."""
    scale_model(tmp_path)
    sum_model(tmp_path)
    async with serving(tmp_path, watch_models="off") as wire:
        yield wire


async def index(wire: Wire, *, ready: bool = False) -> list[tuple[str, str, str]]:
    answer = await wire.inference.RepositoryIndex(messages.RepositoryIndexRequest(ready=ready))
    return [(each.name, each.version, each.state) for each in answer.models]


async def scaled(wire: Wire, version: str = "") -> tuple[str, float]:
    message = request("scale", {"x": np.ones((1, 4), np.float32)})
    message.model_version = version
    response = await wire.inference.ModelInfer(message)
    return response.model_version, float(tensors(response)["y"][0, 0])


async def load(wire: Wire, name: str = "scale") -> None:
    await wire.inference.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name=name))


async def unload(wire: Wire, name: str = "scale") -> None:
    await wire.inference.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name=name))


async def test_a_new_version_answers_once_it_is_loaded(wire_of: Wire, tmp_path: Path) -> None:
    assert await index(wire_of) == [("scale", "1", "READY"), ("sum", "1", "READY")]
    scale_model(tmp_path, version="2", factor=3.0)
    assert await scaled(wire_of) == ("1", 2)
    await load(wire_of)
    assert await scaled(wire_of) == ("2", 3)


async def test_a_model_that_is_unloaded_is_not_found_until_it_is_loaded_again(wire_of: Wire) -> None:
    await unload(wire_of)
    assert not (await wire_of.inference.ModelReady(messages.ModelReadyRequest(name="scale"))).ready
    message = request("scale", {"x": np.ones((1, 4), np.float32)})
    assert (await failure(wire_of.inference.ModelInfer(message))).code() is grpc.StatusCode.NOT_FOUND
    assert await index(wire_of, ready=True) == [("sum", "1", "READY")]
    while ("scale", "1", "UNLOADING") in (there := await index(wire_of)):  # what ends calls ends a moment later
        pass
    assert ("scale", "1", "UNAVAILABLE") in there
    await load(wire_of)
    assert await scaled(wire_of) == ("1", 2)


async def test_a_bad_new_version_is_told_and_the_old_one_goes_on(wire_of: Wire, tmp_path: Path) -> None:
    bad = scale_model(tmp_path, version="2")
    (bad / "model.onnx").write_bytes(b"no model")
    failed = await failure(
        wire_of.inference.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="scale"))
    )
    assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert await scaled(wire_of) == ("1", 2)
    answer = await wire_of.inference.RepositoryIndex(messages.RepositoryIndexRequest())
    (entry,) = [each for each in answer.models if (each.name, each.version) == ("scale", "2")]
    assert entry.state == "UNAVAILABLE"
    assert entry.reason


async def test_labels_and_versions_side_by_side_answer_to_their_names(wire_of: Wire, tmp_path: Path) -> None:
    scale_model(tmp_path, version="2", factor=3.0)
    (tmp_path / "scale" / "repository.toml").write_text('versions = "all"\n[labels]\nstable = "1"\ncanary = "2"\n')
    await load(wire_of)
    assert [await scaled(wire_of, name) for name in ("1", "2", "stable", "canary", "")] == [
        ("1", 2), ("2", 3), ("1", 2), ("2", 3), ("2", 3)
    ]  # fmt: skip
    stub = wire_of.inference
    metadata = await stub.ModelMetadata(messages.ModelMetadataRequest(name="scale"))
    assert list(metadata.versions) == ["1", "2"]
    named = await stub.ModelMetadata(messages.ModelMetadataRequest(name="scale", version="stable"))
    assert list(named.versions) == ["1"]
    stats = await stub.ModelStatistics(messages.ModelStatisticsRequest(name="scale"))
    assert [(each.version, each.inference_count) for each in stats.model_stats] == [("1", 2), ("2", 3)]


async def test_a_sequence_goes_on_with_the_outputs_of_the_version_that_it_began_with(
    wire_of: Wire, tmp_path: Path
) -> None:
    one = {"x": np.ones((1, 1), np.float32)}
    await wire_of.inference.ModelInfer(step("sum", one, 7, start=True))
    sum_model(tmp_path, version="2", total="other_total")
    await load(wire_of, "sum")
    old = await wire_of.inference.ModelInfer(step("sum", one, 7))
    new = await wire_of.inference.ModelInfer(step("sum", one, 8, start=True))
    assert (old.model_version, tensors(old)) == ("1", {"total": np.array([[2.0]])})
    assert (new.model_version, tensors(new)) == ("2", {"other_total": np.array([[1.0]])})


@pytest.mark.parametrize(
    ("method", "ask", "code", "reason"),
    [
        ("RepositoryModelLoad", messages.RepositoryModelLoadRequest(), "INVALID_ARGUMENT", "name: is empty"),
        ("RepositoryModelUnload", messages.RepositoryModelUnloadRequest(), "INVALID_ARGUMENT", "name: is empty"),
        ("RepositoryModelLoad", messages.RepositoryModelLoadRequest(model_name="no"), "NOT_FOUND", "no"),
        ("RepositoryModelUnload", messages.RepositoryModelUnloadRequest(model_name="no"), "NOT_FOUND", "no"),
        ("RepositoryModelLoad", messages.RepositoryModelLoadRequest(model_name="../x"), "NOT_FOUND", "../x"),
        (
            "RepositoryModelLoad",
            messages.RepositoryModelLoadRequest(
                model_name="scale", parameters={"config": messages.ModelRepositoryParameter(string_param="{}")}
            ),
            "UNIMPLEMENTED",
            "parameters: 'config' is set, but models and their configuration are read from the repository alone",
        ),
        (
            "RepositoryModelUnload",
            messages.RepositoryModelUnloadRequest(
                model_name="scale", parameters={"force": messages.ModelRepositoryParameter(bool_param=True)}
            ),
            "INVALID_ARGUMENT",
            "parameters: 'force' is not known; only unload_dependents (bool) is",
        ),
        (
            "RepositoryIndex",
            messages.RepositoryIndexRequest(repository_name="other"),
            "INVALID_ARGUMENT",
            "repository_name: is 'other'; there is one repository, leave it empty",
        ),
    ],
)  # fmt: skip
async def test_a_wrong_call_is_refused(wire_of: Wire, method: str, ask: object, code: str, reason: str) -> None:
    failed = await failure(getattr(wire_of.inference, method)(ask))
    assert failed.code().name == code
    assert reason in (failed.details() or "")


async def test_an_unload_may_name_the_dependents_that_there_are_not(wire_of: Wire) -> None:
    parameters = {"unload_dependents": messages.ModelRepositoryParameter(bool_param=False)}
    ask = messages.RepositoryModelUnloadRequest(model_name="sum", parameters=parameters)
    await wire_of.inference.RepositoryModelUnload(ask)
    assert await index(wire_of, ready=True) == [("scale", "1", "READY")]
