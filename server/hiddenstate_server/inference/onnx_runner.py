"""Runs an ONNX graph: arrays in, arrays out. One runner belongs to one runner thread."""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from hiddenstate_server.errors import InvalidRequestError, ModelFailedError, OverloadedError, ServingError
from hiddenstate_server.inference.shape_queue import Call
from hiddenstate_server.inference.signature import Signature
from hiddenstate_server.inference.statistics import RunTimes, Statistics
from hiddenstate_server.inference.tensor_memory import is_exhausted
from hiddenstate_server.inference.tensors import Tensors
from hiddenstate_server.metrics import Metrics

_log = logging.getLogger(__name__)

_FATAL: Final = 4  # errors are raised, so ONNX Runtime need not print them too

# What ONNX Runtime says of values that a node refuses, without names and source files.
_REASON: Final = re.compile(r"Status Message: (?:\S+/\S+ )?(.{1,200})")


class OnnxRunner:
    """One session of an ONNX file."""

    def __init__(self, session: onnxruntime.InferenceSession, signature: Signature) -> None:
        self._session = session
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = _FATAL
        ports = [*signature.outputs, *(state.output for state in signature.states)]
        self._texts = {port.name for port in ports if port.datatype == "BYTES"}

    def run(self, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        """Runs the graph once and returns the outputs that are named."""
        feed = {name: _decoded(array) if array.dtype == object else array for name, array in inputs.items()}
        arrays = self._session.run(list(outputs), feed, self._options)
        return {
            name: _encoded(array) if name in self._texts else np.asarray(array)
            for name, array in zip(outputs, arrays, strict=True)
        }


class OnnxStep:
    """The scheduler's step for ONNX graphs. Belongs to the runner thread."""

    def __init__(
        self,
        runner: OnnxRunner,
        axes: Mapping[str, int | None],
        statistics: Statistics,
        *,
        model: str,
        version: str,
        metrics: Metrics,
    ) -> None:
        """Takes the batch axis of each port, by name."""
        self._runner = runner
        self._axes = axes
        self._statistics = statistics
        self._model = model
        self._version = version
        self._metrics = metrics
        self._counts = metrics.of_batches(model, version, "tensors")

    def __call__(self, batch: Sequence[Call]) -> Sequence[Call]:
        """Runs calls together; if that fails each by itself, so that a bad one does not fail its neighbours."""
        try:
            self._run(batch)
        except Exception as error:  # ONNX Runtime raises classes of its own, without a common base
            if len(batch) > 1:
                for call in batch:
                    self([call])
                return batch
            batch[0].error = _error(error)
            self._metrics.dropped(model=self._model, version=self._version, reason="failed")
        for call in batch:
            call.over = True
        return batch

    def _run(self, batch: Sequence[Call]) -> None:
        started_at = time.perf_counter_ns()
        rows = sum(call.rows for call in batch)
        inputs = self._joined(batch)
        names = list(dict.fromkeys(name for call in batch for name in call.outputs))
        joined_at = time.perf_counter_ns()
        outputs = self._runner.run(inputs, names)
        ran_at = time.perf_counter_ns()
        self._part(batch, outputs, rows)
        times = RunTimes(
            input_ns=joined_at - started_at, infer_ns=ran_at - joined_at, output_ns=time.perf_counter_ns() - ran_at
        )
        for call in batch:
            call.times = times
        self._statistics.executed(rows=rows, times=times)
        self._counts.run(rows=rows, tokens=rows, padded_tokens=rows, seconds=times.total_ns / 1e9)

    def _joined(self, batch: Sequence[Call]) -> Tensors:
        first = batch[0].inputs
        if len(batch) == 1:
            return first
        axes = self._axes
        return {
            name: array if (axis := axes[name]) is None else np.concatenate([c.inputs[name] for c in batch], axis)
            for name, array in first.items()
        }

    def _part(self, batch: Sequence[Call], outputs: Tensors, rows: int) -> None:
        if len(batch) == 1:
            batch[0].answer = outputs
            return
        for name, array in outputs.items():
            axis = self._axes[name] or 0
            if array.ndim <= axis or array.shape[axis] != rows:
                raise ValueError(f"output {name} has shape {list(array.shape)}, without {rows} rows on axis {axis}")
        start = 0
        for call in batch:
            end = start + call.rows
            call.answer = {name: self._rows(name, outputs[name], start, end) for name in call.outputs}
            start = end

    def _rows(self, name: str, array: NDArray[Any], start: int, end: int) -> NDArray[Any]:
        return array[(slice(None),) * (self._axes[name] or 0) + (slice(start, end),)]


def _error(error: Exception) -> ServingError:
    """Says whose fault it is: inputs fit in shape and type, so a value that a node refuses is the caller's."""
    if isinstance(error, ServingError):
        return error
    if is_exhausted(error):
        return OverloadedError(
            "inputs: with their values and shapes the model needs more memory than it may have (--max-tensor-memory): "
            "send fewer or smaller ones",
            reason="tensor_memory",
        )
    if isinstance(error, InvalidArgument) and (reason := _REASON.search(" ".join(str(error).split()))):
        return InvalidRequestError(f"inputs: the model cannot be run with their values: {reason[1]}")
    _log.error("a call failed", exc_info=error)
    return ModelFailedError("the model could not be run; the server's log has the reason")


def _decoded(array: NDArray[Any]) -> NDArray[Any]:
    try:
        texts = [text.decode("utf-8") for text in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"inputs: a text is not UTF-8: {error.reason}") from None
    return _objects(texts, array.shape)


def _encoded(array: NDArray[Any]) -> NDArray[Any]:
    return _objects([text.encode("utf-8") for text in array.ravel().tolist()], array.shape)


def _objects(values: Sequence[object], shape: tuple[int, ...]) -> NDArray[Any]:
    objects = np.empty(len(values), dtype=object)
    objects[:] = values
    return objects.reshape(shape)
