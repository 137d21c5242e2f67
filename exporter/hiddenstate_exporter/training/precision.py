"""What a run computes in, and on: chosen so that the device gains by it."""

import time
from typing import Final, Literal

import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_GAIN: Final = 1.3  # how much faster bfloat16 has to be on a CPU to be taken
_SIZES: Final = (512, 512, 2048)  # of the product that is timed


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Returns the device of a run; `auto` is CUDA where there is one.

    Raises:
        ValueError: CUDA is asked for, and this PyTorch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda is asked for, but PyTorch sees no CUDA device; set it to cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Returns what products are computed in. `auto` takes bfloat16 where it is faster: on a CPU that is measured.

    Raises:
        ValueError: the device cannot compute in what is asked for.
    """
    if device.type == "cpu":
        return _of_cpu(precision)
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def cpu_has_bfloat16() -> bool:
    """Tells whether oneDNN has bfloat16 products for this CPU, which needs AVX-512; without, LSTMs cannot be run."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _of_cpu(precision: Precision) -> torch.dtype:
    if precision == "float16":
        raise ValueError("precision: float16 needs a CUDA device; take bfloat16, float32 or auto")
    if precision == "bfloat16" and not cpu_has_bfloat16():
        raise ValueError("precision: this CPU has no bfloat16 products (AVX-512); take float32 or auto")
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    gains = cpu_has_bfloat16() and _seconds(torch.float32) > _GAIN * _seconds(torch.bfloat16)
    return torch.bfloat16 if gains else torch.float32


def _seconds(dtype: torch.dtype) -> float:
    """Returns how long a product takes on the CPU: the shortest of three, after one that does not count."""
    rows, inner, columns = _SIZES
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return min(times[1:])
