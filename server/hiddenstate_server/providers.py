"""Chooses the ONNX Runtime execution provider and makes inference sessions."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import onnxruntime

from hiddenstate_server.errors import BundleError, ConfigError

ProviderName = Literal["auto", "cuda", "tensorrt", "cpu"]

CPU = "CPUExecutionProvider"
_ONNX_RUNTIME_NAMES = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider", "cpu": CPU}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider that runs on this machine, and why it was taken."""

    name: str  # as ONNX Runtime calls it
    reason: str

    @property
    def device(self) -> str:
        """Returns what ONNX Runtime calls the memory that it computes in."""
        return "cpu" if self.name == CPU else "cuda"


def choose_provider(wanted: ProviderName, probe: Path) -> Provider:
    """Chooses the provider: the wanted one, or with `auto` CUDA where it works and else the CPU.

    `probe` is a graph that is loaded to see whether the provider works; listing it as available does not prove that.

    Raises:
        ConfigError: the wanted provider is not installed or does not work.
    """
    onnxruntime.disable_telemetry_events()
    if wanted == "cpu":
        return Provider(name=CPU, reason="as asked")
    name = _ONNX_RUNTIME_NAMES["cuda" if wanted == "auto" else wanted]
    problem = _problem(name, probe)
    if problem is None:
        return Provider(name=name, reason="it is installed and works" if wanted == "auto" else "as asked")
    if wanted == "auto":
        return Provider(name=CPU, reason=problem)
    raise ConfigError(f"--provider {wanted}: {problem}; use --provider cpu, or auto to take what works")


def make_session(
    path: Path, provider: Provider, threads: int, entries: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """Loads a graph with `threads` intra-op threads (0 lets this module choose) and more entries of ONNX Runtime's.

    Raises:
        BundleError: ONNX Runtime cannot load the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning pools of several sessions on shared cores starve each other and the event loop.
    for key, value in {"session.intra_op.allow_spinning": "0", **(entries or {})}.items():
        options.add_session_config_entry(key, value)
    options.log_severity_level = 3
    providers = [provider.name] if provider.name == CPU else [provider.name, CPU]
    try:
        # Its fallback would load what has failed once more, and print that to stdout.
        return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises classes of its own, without a common base
        raise BundleError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {_one_line(error)}"
        ) from None


def _problem(name: str, probe: Path) -> str | None:
    """Says why a provider cannot be used, or None."""
    if name not in onnxruntime.get_available_providers():
        installed = f"the installed onnxruntime {onnxruntime.__version__}"
        return f"{name} is not in {installed} (the extra server-gpu brings it, for NVIDIA GPUs)"
    try:
        onnxruntime.preload_dlls()  # finds CUDA and cuDNN where Python packages bring them
        session = make_session(probe, Provider(name=name, reason="probe"), threads=1)
    except Exception as error:  # whatever a driver problem looks like, the answer is the same
        return f"{name} does not work here: {_one_line(error)}"
    if name not in session.get_providers():  # ONNX Runtime falls back silently
        return f"{name} is installed but could not be started (driver or CUDA libraries missing?)"
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
