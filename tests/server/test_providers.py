"""Which ONNX Runtime provider is taken, and what is said about it."""

import asyncio
import logging
from pathlib import Path

import onnxruntime
import pytest

from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.providers import CPU, choose_provider
from hiddenstate_server.repository import Repository

CUDA = "CUDAExecutionProvider"


@pytest.fixture
def graph(models_dir: Path) -> Path:
    """A graph to try providers with."""
    return models_dir / "tiny-encoder" / "1" / "encoder.onnx"


def say_available(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Makes ONNX Runtime say that it has these providers."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(names))


def test_auto_takes_the_cpu_where_cuda_is_not_installed(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say_available(monkeypatch, CPU)
    provider = choose_provider("auto", graph)
    assert provider.name == CPU
    assert provider.reason.startswith(f"{CUDA} is not in the installed onnxruntime")


# Where CUDA works there is nothing to fall back from.
@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_auto_takes_the_cpu_where_cuda_is_installed_and_does_not_start(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_available(monkeypatch, CUDA, CPU)
    provider = choose_provider("auto", graph)
    assert provider.name == CPU
    assert CUDA in provider.reason
    with pytest.raises(ConfigError, match=f"--provider cuda: {CUDA} .*; use --provider cpu, or auto"):
        choose_provider("cuda", graph)


async def test_the_log_says_which_provider_runs_and_why(models_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = EngineSettings(provider="cpu")
    loop = asyncio.get_running_loop()
    Repository.open(models_dir, settings=settings, metrics=Metrics(), loop=loop).close()
    said = [record.getMessage() for record in caplog.records if "running models on" in record.getMessage()]
    assert said == [f"running models on {CPU}: as asked"]


def test_onnx_runtime_is_told_to_send_no_telemetry(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: told.append(True))
    choose_provider("cpu", graph)
    assert told
