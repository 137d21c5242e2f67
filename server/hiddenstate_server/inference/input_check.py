"""Holds what a caller sends against what a model takes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.inference.signature import Port, Signature
from hiddenstate_server.inference.tensors import Tensors


class InputCheck:
    """Checks the inputs of one model's calls."""

    def __init__(self, model: str, signature: Signature, *, max_batch: int) -> None:
        """Takes the most rows of a call; 0 where calls are run by themselves and need not have rows at all."""
        self._model = model
        self._ports = {port.name: port for port in signature.inputs}
        self._states = frozenset(state.input.name for state in signature.states)
        self._max_batch = max_batch

    def __call__(self, inputs: Tensors) -> tuple[Tensors, int]:
        """Returns the inputs as the graph takes them, and the number of rows.

        Raises:
            InvalidRequestError: an input is missing, unknown, or of the wrong datatype or shape.
        """
        self._check_names(inputs)
        ports = self._ports
        checked = {name: self._check(port, inputs[name]) for name, port in ports.items()}
        self._check_symbols(checked)
        return checked, self._rows(checked)

    def _check_names(self, inputs: Tensors) -> None:
        for name in inputs:
            if name in self._states:
                raise InvalidRequestError(
                    f"input {name!r}: is a state, which the server keeps; leave it out and name the sequence"
                )
            if name not in self._ports:
                raise InvalidRequestError(f"input {name[:64]!r}: {self._model} has none of that name; {self._takes}")
        for name in self._ports:
            if name not in inputs:
                raise InvalidRequestError(f"input {name!r}: is missing; {self._takes}")

    @property
    def _takes(self) -> str:
        return f"it takes {', '.join(self._ports) or 'none'}"

    def _check(self, port: Port, array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype != port.dtype:
            raise InvalidRequestError(f"input {port.name!r}: is {array.dtype}, {port.datatype} is due")
        if port.batch_axis is None and self._max_batch and array.ndim == len(port.dims) + 1:
            array = _one_for_all(port, array)
        shape = array.shape
        if len(shape) != len(port.dims) or any(_differ(*pair) for pair in zip(shape, port.dims, strict=True)):
            raise InvalidRequestError(f"input {port.name!r}: has shape {list(shape)}, {_shown(port)} is due")
        self._check_sizes(port, shape)
        return array

    def _check_sizes(self, port: Port, shape: tuple[int, ...]) -> None:
        for axis, (size, dim) in enumerate(zip(shape, port.dims, strict=True)):
            if isinstance(dim, int):
                continue
            if size == 0 and not (port.empty and axis != port.batch_axis):
                raise InvalidRequestError(f"input {port.name!r}: has shape {list(shape)}, axis {axis} is empty")
            is_batch = self._max_batch and axis == port.batch_axis
            if port.longest and size > port.longest and not is_batch:
                raise InvalidRequestError(
                    f"input {port.name!r}: has shape {list(shape)}, axis {axis} may have {port.longest:,}; "
                    "send it in parts"
                )

    def _check_symbols(self, inputs: Tensors) -> None:
        """Axes that the graph calls by one name have one size."""
        seen: dict[str, tuple[str, int, int]] = {}
        for name, array in inputs.items():
            for axis, (size, dim) in enumerate(zip(array.shape, self._ports[name].dims, strict=True)):
                if not isinstance(dim, str):
                    continue
                other, other_axis, other_size = seen.setdefault(dim, (name, axis, size))
                if size != other_size:
                    raise InvalidRequestError(
                        f"input {name!r}: axis {axis} has {size:,}, axis {other_axis} of {other!r} has {other_size:,}; "
                        f"both are {dim!r}, so make them equal"
                    )

    def _rows(self, inputs: Tensors) -> int:
        """Returns the rows of a call: where calls are run by themselves, those of its first input."""
        rows = 0
        for name, array in inputs.items():
            axis = self._ports[name].batch_axis
            if axis is None:
                continue
            size: int = array.shape[axis]
            if not self._max_batch:
                return size
            if rows and size != rows:
                raise InvalidRequestError(f"input {name!r}: has {size:,} rows, the inputs before it have {rows:,}")
            rows = size
        if self._max_batch and rows > self._max_batch:
            raise InvalidRequestError(
                f"inputs: have {rows:,} rows, {self._model} takes {self._max_batch:,} at a time; send them in several "
                "calls, which may run at once"
            )
        return rows or 1


def _one_for_all(port: Port, array: NDArray[Any]) -> NDArray[Any]:
    """Takes the value of all rows from an array that has it once for each."""
    if not len(array) or not np.array_equal(array, np.broadcast_to(array[:1], array.shape)):
        raise InvalidRequestError(
            f"input {port.name!r}: all rows of a call have the same; send rows with another value in another call"
        )
    return array[0, ...]


def _differ(size: int, dim: int | str | None) -> bool:
    return isinstance(dim, int) and size != dim


def _shown(port: Port) -> str:
    return str(list(port.shape)).replace("-1", "any")
