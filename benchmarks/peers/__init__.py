"""Servers to compare with: each a script that runs with the interpreter of `.venv-bench`."""

import json
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from benchmarks.processes import ROOT, Serving, server
from hiddenstate_server.inference.open_inference_pb2 import ModelReadyRequest
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

_HERE = Path(__file__).parent
_VENV = ROOT / ".venv-bench"
_PACKAGES = ("mosec", "mlserver", "onnxruntime", "grpcio", "protobuf", "numpy", "tokenizers")
_PINNED = ("uvloop<0.22",)  # workers of MLServer 1.7 ask it for a loop in a way that ended with 0.22
_READY_S = 60.0
_MLSERVER_WORKERS = 2


def install() -> Path:
    """Makes the peers' environment, once, and returns its interpreter."""
    python = _VENV / "bin" / "python"
    if not (_VENV / ".ready").exists():
        venv.create(_VENV, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *_PACKAGES, *_PINNED], check=True)
        (_VENV / ".ready").touch()
    return python


def py_spy() -> Path:
    """Installs py-spy beside the peers if it is not there, and returns it."""
    command = install().with_name("py-spy")
    if not command.exists():
        subprocess.run([install(), "-m", "pip", "install", "--quiet", "py-spy"], check=True)
    return command


@contextmanager
def plain_grpc(bundle: Path, sessions: int = 2) -> Iterator[Serving]:
    """Runs the plain grpc.aio server."""
    command = [str(install()), str(_HERE / "grpc_server.py"), str(bundle), str(sessions)]
    with server(command, PYTHONPATH=str(ROOT / "client")) as serving:
        yield serving


@contextmanager
def mosec(bundle: Path) -> Iterator[Serving]:
    """Runs mosec."""
    port = _free_port()
    # It says nothing on its output when it serves; a shell's first line stands in.
    options = f"--address 127.0.0.1 --port {port} --timeout 20000 --log-level error"
    script = f'echo "mosec on 127.0.0.1:{port}"; exec "$0" "$1" {options}'
    command = ["sh", "-c", script, str(install()), str(_HERE / "mosec_server.py")]
    with server(command, HIDDENSTATE_BUNDLE=str(bundle)) as serving:
        _wait_for_port(port)
        yield serving


@contextmanager
def mlserver(bundle: Path) -> Iterator[Serving]:
    """Runs MLServer with its adaptive batching and workers."""
    port = _free_port()
    settings = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": _free_port(),
        "metrics_endpoint": None,
        "parallel_workers": _MLSERVER_WORKERS,
        "debug": False,
    }
    model = {
        "name": "encoder",
        "implementation": "mlserver_model.Encoder",
        "parameters": {"uri": str(bundle)},
        "max_batch_size": 32,
        "max_batch_time": 0.001,
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        (Path(folder) / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
        start = f'echo "MLServer on 127.0.0.1:{port}"; exec "$0" start {folder}'
        command = ["sh", "-c", start, str(install().with_name("mlserver"))]
        with server(command, PYTHONPATH=str(_HERE)) as serving:
            _wait_for_model(serving.address, "encoder")
            yield serving


@contextmanager
def echo() -> Iterator[Serving]:
    """Runs the server without a model."""
    with server([sys.executable, str(_HERE / "echo_server.py")]) as serving:
        yield serving


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_model(address: str, name: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        ready = stub.ModelReady(ModelReadyRequest(name=name), timeout=_READY_S, wait_for_ready=True).ready
        until = time.monotonic() + _READY_S
        while not ready and time.monotonic() < until:
            time.sleep(0.1)
            ready = stub.ModelReady(ModelReadyRequest(name=name), timeout=_READY_S).ready
    if not ready:
        raise TimeoutError(f"{name} is not ready at {address}")


def _wait_for_port(port: int) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing answers on port {port}")
