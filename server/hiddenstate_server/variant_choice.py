"""Chooses which graphs of a bundle to run: int8 on a CPU, float16 on a GPU, where this machine runs them faster than
float32, and as they were published.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.bundle import Bundle, VariantName
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.providers import CPU, Provider

Wanted = Literal["auto", "fp32", "fp16", "int8"]

_log = logging.getLogger(__name__)

# What a machine must gain for other graphs to be worth their rounding, over both batch sizes on average.
_LEAST_GAIN = 1.1
_BATCH_SIZES = (1, 16)
_RUNS = 7  # the fastest counts: a busy machine only ever adds to a run
_measuring = threading.Lock()  # models are loaded side by side, but two measurements at once are none
_CPU_INFO = Path("/proc/cpuinfo")
_PORTABLE_BITS = 7
_FLAGS = {"flags": ("avx512_vnni", "avx_vnni"), "Features": ("asimddp",)}  # x86, ARM: a word of products at once


class Runner(Protocol):
    """Runs the graphs of one variant."""

    def trial(self, batch_size: int) -> Sequence[NDArray[np.float32]]:
        """Runs a typical batch, always the same one, and returns what came out."""


R = TypeVar("R", bound=Runner)


class Choice(NamedTuple, Generic[R]):
    """A variant that was loaded, and why it was taken."""

    runner: R
    variant: VariantName
    reason: str


def load_variant(wanted: Wanted, bundle: Bundle, provider: Provider, load: Callable[[VariantName], R]) -> Choice[R]:
    """Loads the graphs that are wanted; instead of int8 or float16 those in float32 where the others do not run as due.

    With `auto` also where the others are not faster.

    Raises:
        ConfigError: the bundle has neither the wanted variant nor float32 graphs.
        BundleError: its graphs cannot be loaded; on a GPU, those in float32.
    """
    if wanted not in ("auto", *bundle.variants) and (wanted == "fp32" or "fp32" not in bundle.variants):
        has = ", ".join(bundle.variants)
        raise ConfigError(
            f"--variant {wanted}: {bundle.name} {bundle.version} has only {has}; "
            "leave it to --variant auto, or export the model with that variant"
        )
    rival = _rival(provider) if wanted == "auto" else wanted
    if wanted == "fp32" or "fp32" not in bundle.variants:
        name = rival if rival in bundle.variants else next(iter(bundle.variants))
        return Choice(load(name), name, "as asked" if wanted != "auto" else "the bundle has no float32 graphs")
    if problem := _problem(rival, bundle, provider):
        return Choice(load("fp32"), "fp32", problem)
    fp32 = load("fp32")
    try:
        loaded = load(rival)
        problem = _differs(bundle, fp32, loaded, rival)
    except Exception as error:  # ONNX Runtime raises classes of its own
        if provider.name == CPU:  # which runs them all; a GPU's provider may lack an operator, or memory
            raise
        _log.warning("%s graphs do not run on %s: %s", rival, provider.name, error)
        return Choice(fp32, "fp32", f"{rival} graphs do not run here")
    if problem:
        return Choice(fp32, "fp32", problem)
    return _faster(fp32, loaded, rival) if wanted == "auto" else Choice(loaded, rival, "as asked")


def _rival(provider: Provider) -> VariantName:
    """Returns what might be faster than fp32."""
    return "int8" if provider.name == CPU else "fp16"


def _problem(rival: VariantName, bundle: Bundle, provider: Provider) -> str | None:
    """Says why a variant need not even be tried, or None."""
    if rival not in bundle.variants:
        return f"the bundle has no {rival} graphs"
    if rival != _rival(provider):
        return f"{provider.name} has no {rival} products of this kind"
    # Without these instructions x86 adds products of bytes up in 16 bits, which weights of 8 bits overflow.
    if rival == "int8" and bundle.variants[rival].weight_bits > _PORTABLE_BITS and _lacks_instructions():
        return "this CPU has no instructions for int8 products of weights with 8 bits"
    return None


def _lacks_instructions() -> bool:
    """Reads what Linux says of the CPU; elsewhere only the measurement tells."""
    try:
        lines = _CPU_INFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        key, _, value = line.partition(":")
        if wanted := _FLAGS.get(key.strip()):
            return not set(wanted) & set(value.split())
    return False


def _differs(bundle: Bundle, fp32: R, rival: R, name: VariantName) -> str | None:
    """Says by how much more the answers differ than was published, or None."""
    allowed = sum(bundle.variants[variant].parity.tolerance for variant in ("fp32", name))
    difference = max(_difference(fp32, rival, batch_size) for batch_size in _BATCH_SIZES)
    if difference <= allowed:  # which NaN is not
        return None
    return f"{name} graphs differ from it by {difference:.2g} here, {allowed:.2g} is allowed"


def _faster(fp32: R, rival: R, name: VariantName) -> Choice[R]:
    with _measuring:
        gains = [_gain(fp32, rival, batch_size) for batch_size in _BATCH_SIZES]
    measured = " and ".join(f"{gain:.1f} in batches of {size}" for gain, size in zip(gains, _BATCH_SIZES, strict=True))
    if np.prod(gains) < _LEAST_GAIN ** len(gains):
        return Choice(fp32, "fp32", f"{name} is not faster here: {measured} times as fast")
    return Choice(rival, name, f"{measured} times as fast as fp32 here")


def _difference(fp32: Runner, rival: Runner, batch_size: int) -> float:
    pairs = zip(fp32.trial(batch_size), rival.trial(batch_size), strict=True)
    return max(float(np.abs(one - other).max()) for one, other in pairs)


def _gain(fp32: Runner, rival: Runner, batch_size: int) -> float:
    """Returns how many times as fast the rival is; both run by turns, so that what slows the machine slows both."""
    turns = [(_seconds(fp32, batch_size), _seconds(rival, batch_size)) for _ in range(_RUNS)]
    return min(one for one, _ in turns) / min(other for _, other in turns)


def _seconds(runner: Runner, batch_size: int) -> float:
    started_at = time.perf_counter()
    runner.trial(batch_size)
    return time.perf_counter() - started_at
