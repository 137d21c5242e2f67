"""What a benchmark ran on."""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("hiddenstate", "onnxruntime", "grpcio", "protobuf", "numpy", "uvloop", "tokenizers")
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "i8mm")


def machine() -> str:
    """Returns the processor, in one line."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in facts.items()}
    flags = set(named.get("flags", named.get("Features", "")).split())
    found = [name for name in _INSTRUCTIONS if name in flags]
    name = named.get("model name", platform.processor() or platform.machine())
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {', '.join(found)}"


def versions(packages: Sequence[str] = PACKAGES) -> str:
    """Returns the releases of Python and packages, in one line."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in packages)])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"
