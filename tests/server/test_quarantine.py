"""What would crash, hang or exhaust the server is refused by a process of its own, and what serves goes on."""

import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from bundles import language_model_bundle
from hiddenstate_server.config import MIB, EngineSettings
from hiddenstate_server.errors import BundleError
from hiddenstate_server.inference import open_inference_pb2 as messages
from hiddenstate_server.repository import quarantine
from hiddenstate_server.repository.files import Stamp, VersionFiles
from onnx_files import endless_model, scale_model
from onnx_graphs import INT64, node, port, write_graph
from serving import failure, serving
from tensor_requests import request

READY = messages.RepositoryIndexRequest()


def check(folder: Path, **settings: float) -> None:
    files = tuple((path.name, Stamp(path.stat().st_size, "")) for path in folder.iterdir())
    version = VersionFiles(name=folder.parent.name, version="1", path="", files=files)
    quarantine.check(version, folder, EngineSettings(**settings))  # type: ignore[arg-type]


def test_what_is_right_passes_and_what_is_wrong_is_refused_as_the_server_would(tmp_path: Path) -> None:
    check(language_model_bundle(tmp_path))
    folder = scale_model(tmp_path)
    check(folder)
    (folder / "config.toml").write_text("batching = 1")
    with pytest.raises(BundleError, match=r"scale/1/config.toml: Expected `str`, got `int`"):
        check(folder)


def test_a_model_that_never_comes_to_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"endless/1: is not loaded after 3 s .*--trial-timeout-s"):
        check(endless_model(tmp_path), trial_timeout_s=3.0)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (f"os.kill(os.getpid(), {int(signal.SIGSEGV)})", "crashes with SIGSEGV the process that tries it"),
        (f"os.kill(os.getpid(), {int(signal.SIGKILL)})", "takes the memory of the process that tries it"),
        ("os._exit(7)", "ends with exit code 7 the process that tries it"),
    ],
)
def test_a_model_that_ends_the_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, message: str
) -> None:
    monkeypatch.setattr(quarantine, "_COMMAND", (sys.executable, "-c", f"import os; {end}"))
    with pytest.raises(BundleError, match=message):
        check(scale_model(tmp_path))


async def test_a_new_version_that_hangs_is_refused_without_a_word_of_where_it_lies(tmp_path: Path) -> None:
    scale_model(tmp_path, name="endless")
    async with serving(tmp_path, watch_models="off", trial_timeout_s=3.0) as wire:
        endless_model(tmp_path, version="2")
        error = await failure(
            wire.inference.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="endless"))
        )
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == (
            "endless version 2 cannot be loaded: endless/2: is not loaded after 3 s in a process of its own "
            "(--trial-timeout-s); endless version 1 goes on being served"
        )
        reasons = {each.version: each.reason for each in (await wire.inference.RepositoryIndex(READY)).models}
        assert reasons["2"].startswith("endless/2: is not loaded")
        response = await wire.inference.ModelInfer(request("endless", {"x": np.ones((1, 4), np.float32)}))
        assert response.model_version == "1"


async def test_a_call_that_asks_for_more_memory_than_models_may_have_is_refused(tmp_path: Path) -> None:
    write_graph(
        tmp_path / "zeros" / "1",
        [node("ConstantOfShape", ["shape"], ["y"])],
        [port("shape", ["rank"], INT64)],
        [port("y", None)],
    )
    async with serving(tmp_path, max_tensor_memory=16 * MIB) as wire:
        for sizes in ([2, 3], [2**20, 2**4], [2**40], [2, 3]):
            call = wire.inference.ModelInfer(request("zeros", {"shape": np.array(sizes)}))
            if sizes == [2, 3]:
                assert list((await call).outputs[0].shape) == sizes
                continue
            error = await failure(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "more memory than it may have (--max-tensor-memory)" in (error.details() or "")
        assert wire.metric("hiddenstate_requests_refused_total", method="ModelInfer", reason="tensor_memory") == 2


async def test_a_server_of_an_empty_folder_is_ready_when_a_model_has_come(tmp_path: Path) -> None:
    async with serving(tmp_path, watch_models="off") as wire:
        health: Any = HealthStub(wire.channel)  # without type stubs for asyncio
        names = ("", "inference.GRPCInferenceService", "hiddenstate.v1.LanguageModelService")
        for status, ready in ((HealthCheckResponse.NOT_SERVING, False), (HealthCheckResponse.SERVING, True)):
            for name in names:
                assert (await health.Check(HealthCheckRequest(service=name))).status == status
            assert (await wire.inference.ServerReady(messages.ServerReadyRequest())).ready is ready
            scale_model(tmp_path, version="2" if ready else "1")
            await wire.inference.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="scale"))
