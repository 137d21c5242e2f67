"""The memory that runs of ONNX models take together: one arena of ONNX Runtime, which knows its limit.

What a graph makes of its inputs is not known before it runs: a value of an input may be the size of an output.
"""

import re
import threading
from collections.abc import Mapping
from typing import Final

import onnxruntime

_UNCHANGED: Final = -1
_EXHAUSTED: Final = re.compile(r"Available memory of \d+ is smaller than requested bytes|bad_alloc")
_SHARED: Final = {"session.use_env_allocators": "1"}
_REGISTERING = threading.Lock()
_registered: int | None = None


def session_entries(limit: int) -> Mapping[str, str]:
    """Returns what makes a session take its memory from the arena of so many bytes; 0: from one of its own, without.

    Weights are not counted. A process has one arena: sessions made with another limit leave it to those before them.
    """
    if not limit:
        return {}
    global _registered
    with _REGISTERING:
        if _registered != limit:
            _register(limit)
            _registered = limit
    return _SHARED


def is_exhausted(error: Exception) -> bool:
    """Tells whether a run has failed since it needed more memory than there is."""
    return isinstance(error, MemoryError) or _EXHAUSTED.search(str(error)) is not None


def _register(limit: int) -> None:
    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    arena = onnxruntime.OrtArenaCfg(
        {
            "max_mem": limit,
            "arena_extend_strategy": _UNCHANGED,
            "initial_chunk_size_bytes": _UNCHANGED,
            "max_dead_bytes_per_chunk": _UNCHANGED,
        }
    )
    onnxruntime.create_and_register_allocator(info, arena)
