"""Runs a graph with rows that are made up: alone, together, and compares."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.inference.onnx_config import CONFIG_FILE
from hiddenstate_server.inference.onnx_runner import OnnxRunner
from hiddenstate_server.inference.signature import Port, Signature
from hiddenstate_server.inference.tensors import Tensors

# ONNX Runtime's recurrent layers take another path above 4 rows, so there have to be fewer and more.
_ROWS: Final = (8, 3)
_MOST_VALUES: Final = 2**25  # of all inputs together, 256 MiB while they are drawn
_SIZES: Final = (4, 32)  # of open axes; the first is taken that the graph runs with
# What a sum in another order may differ by, as a part of the largest value.
_TOLERANCES: Final = {np.dtype(np.float16): 4e-3, np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-11}
_SCALES: Final = (1.0, 0.1, 3.0)  # of rows in turn: shows what is scaled by the largest of a batch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a trial has shown."""

    problem: str | None = None  # why rows must not go together
    lacks_axis: bool = False  # an output does not have the rows where they should be
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # of outputs of one row


def try_rows(signature: Signature, runner: OnnxRunner) -> Outcome:
    """Runs the same rows alone and together."""
    axes = signature.axes
    try:
        feed = _runnable(signature, runner, _ROWS[0])
        alone = [_run(signature, runner, _rows(feed, axes, row, row + 1)) for row in range(_ROWS[0])]
        together = [_run(signature, runner, _rows(feed, axes, 0, rows)) for rows in _ROWS]
    except Exception as error:  # ONNX Runtime raises classes of its own, without a common base
        reason = " ".join(str(error).split())[:300]
        return Outcome(problem=f"it cannot be tried (say shape and range of inputs in {CONFIG_FILE}): {reason}")
    shapes = {name: array.shape for name, array in alone[0].items()}
    for rows, outputs in zip(_ROWS, together, strict=True):
        for name, array in outputs.items():
            axis = axes[name] or 0
            if problem := _lacks_axis(name, array, axis, rows):
                return Outcome(problem=problem, lacks_axis=True, shapes=shapes)
            if problem := _differs(name, array, [row[name] for row in alone[:rows]], axis):
                return Outcome(problem=problem, shapes=shapes)
    return Outcome(shapes=shapes)


def row_trial(signature: Signature, runner: OnnxRunner) -> Callable[[], object] | None:
    """Returns what runs one row that is made up; None where the graph does not run with that."""

    def trial() -> object:
        return _run(signature, runner, _runnable(signature, runner, 1))

    return trial if warm_up(signature, runner) else None


def warm_up(signature: Signature, runner: OnnxRunner) -> Mapping[str, tuple[int, ...]]:
    """Runs one row, if the graph can be run with what is made up, and returns the shape of each output."""
    try:
        outputs = _run(signature, runner, _runnable(signature, runner, 1))
    except Exception:  # what is made up proves nothing
        return {}
    return {name: array.shape for name, array in outputs.items()}


def _lacks_axis(name: str, array: NDArray[Any], axis: int, rows: int) -> str | None:
    if array.ndim > axis and array.shape[axis] == rows:
        return None
    return f"output {name!r} of {rows} rows has shape {list(array.shape)}, without them on axis {axis}"


def _differs(name: str, together: NDArray[Any], alone: Sequence[NDArray[Any]], axis: int) -> str | None:
    shapes = {array.shape for array in alone}
    joined = np.concatenate(alone, axis) if len(shapes) == 1 and alone[0].ndim > axis else None
    if joined is None or joined.shape != together.shape:
        return f"output {name!r} has another shape for a row alone than beside others"
    tolerance = _TOLERANCES.get(together.dtype)
    if tolerance is None:
        return None if np.array_equal(joined, together) else f"output {name!r} of a row differs beside others"
    largest = float(np.max(np.abs(joined), where=np.isfinite(joined), initial=0.0))
    if np.allclose(joined, together, rtol=0, atol=tolerance * largest, equal_nan=True):
        return None
    worst = float(np.nanmax(np.abs(joined.astype(np.float64) - together)))
    return f"output {name!r} of a row differs by {worst:.2g} beside others, with values up to {largest:.2g}"


def _run(signature: Signature, runner: OnnxRunner, feed: Tensors) -> Tensors:
    ports = [*signature.outputs, *(state.output for state in signature.states)]
    return runner.run(feed, [port.name for port in ports])


def _runnable(signature: Signature, runner: OnnxRunner, rows: int) -> Tensors:
    """Draws inputs that the graph runs with."""
    *others, last = _SIZES
    for size in others:
        feed = _draw(signature, rows, size)
        try:
            _run(signature, runner, feed)
        except Exception:  # some graphs need longer axes, to convolve over
            continue
        return feed
    return _draw(signature, rows, last)


def _draw(signature: Signature, rows: int, size: int) -> Tensors:
    _check_size(signature, rows, size)
    random = np.random.default_rng(0)
    feed = {port.name: _draw_port(port, rows, size, random) for port in signature.inputs}
    for state in signature.states:
        start = state.start(rows)
        feed[state.input.name] = start
        if start.dtype.kind == "f":
            feed[state.input.name] = (start + random.normal(size=start.shape)).astype(start.dtype)
    return feed


def _check_size(signature: Signature, rows: int, size: int) -> None:
    """Whatever sizes a graph declares, the server goes on serving others."""
    values = sum(math.prod(_shape(port, rows, size)) for port in signature.inputs)
    if values > _MOST_VALUES:
        raise ValueError(f"inputs of {rows} rows have {values:,} values, more than {_MOST_VALUES:,}")


def _shape(port: Port, rows: int, size: int) -> tuple[int, ...]:
    open_size = min(size, port.longest or size)
    return tuple(
        dim if isinstance(dim, int) else rows if position == port.batch_axis else open_size
        for position, dim in enumerate(port.dims)
    )


def _draw_port(port: Port, rows: int, size: int, random: np.random.Generator) -> NDArray[Any]:
    axis, shape = port.batch_axis, _shape(port, rows, size)
    if port.datatype == "BYTES":
        return np.full(shape, b"a", dtype=object)
    if port.dtype.kind != "f":
        # Small numbers pass for ids, lengths and masks alike.
        low, high = port.range or ((0, 1) if port.datatype == "BOOL" else (1, 2))
        return random.integers(int(low), int(high), size=shape, endpoint=True).astype(port.dtype)
    values = random.uniform(*port.range, size=shape) if port.range else random.normal(size=shape)
    if axis is not None and not port.range:
        scales = np.resize(_SCALES, shape[axis])
        values *= scales.reshape([-1 if position == axis else 1 for position in range(len(shape))])
    return values.astype(port.dtype)


def _rows(feed: Tensors, axes: Mapping[str, int | None], start: int, end: int) -> Tensors:
    return {
        name: array if (axis := axes[name]) is None else np.take(array, range(start, end), axis)
        for name, array in feed.items()
    }
