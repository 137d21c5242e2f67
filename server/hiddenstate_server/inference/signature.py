"""What a graph takes and gives, by its own account and by its `config.toml`: the ports of a tensor model."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.errors import BundleError
from hiddenstate_server.inference.onnx_config import InputConfig, OnnxConfig, OutputConfig, StateConfig
from hiddenstate_server.inference.tensors import DTYPES, Datatype, TensorSpec

_DATATYPES: Final[Mapping[str, Datatype]] = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

Dim = int | str | None
"""A fixed size, the name of an open one, or an open one without a name."""


class GraphPort(Protocol):
    """An input or output as ONNX Runtime tells it."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def shape(self) -> Sequence[Dim]: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of a graph."""

    name: str
    datatype: Datatype
    dims: tuple[Dim, ...]
    batch_axis: int | None = 0  # None: the same for all rows
    range: tuple[float, float] | None = None
    longest: int | None = None
    empty: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """How arrays hold it."""
        return DTYPES[self.datatype]

    @property
    def shape(self) -> tuple[int, ...]:
        """The dims with -1 for any size."""
        return tuple(dim if isinstance(dim, int) else -1 for dim in self.dims)

    @property
    def spec(self) -> TensorSpec:
        """What callers are told."""
        return TensorSpec(name=self.name, datatype=self.datatype, shape=self.shape)

    @property
    def has_open_batch(self) -> bool:
        """Whether any number of rows fits."""
        axis = self.batch_axis
        return axis is not None and axis < len(self.dims) and not isinstance(self.dims[axis], int)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StatePort:
    """A state tensor: the input that takes it and the output that gives the next one."""

    input: Port  # its dims are those of a sequence's start
    output: Port
    takes: tuple[Dim, ...]  # the dims of later states
    initial: NDArray[Any]

    def problem(self, shape: tuple[int, ...]) -> str | None:
        """Says if what the output gave cannot go into the input."""
        fits = len(shape) == len(self.takes) or not self.takes
        if fits and all(size == dim or not isinstance(dim, int) for size, dim in zip(shape, self.takes, strict=False)):
            return None
        return (
            f"state output {self.output.name!r} gave {list(shape)}, its input {self.input.name!r} takes "
            f"{_shown_dims(self.takes)}"
        )

    def start(self, rows: int) -> NDArray[Any]:
        """Returns what a sequence of so many rows starts from."""
        return np.broadcast_to(self.initial, self._start_shape(rows)).copy()

    def start_bytes(self, rows: int) -> int:
        """Returns the size of that."""
        return math.prod(self._start_shape(rows)) * self.initial.itemsize

    def _start_shape(self, rows: int) -> tuple[int, ...]:
        axis = self.input.batch_axis
        return tuple(
            dim if isinstance(dim, int) else rows if position == axis else 0
            for position, dim in enumerate(self.input.dims)
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """All ports of a graph. State ports are apart: callers neither send nor see them."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[StatePort, ...]

    @property
    def axes(self) -> dict[str, int | None]:
        """The batch axis of each port, by name; None where all rows have the same."""
        ports = [*self.inputs, *self.outputs]
        ports += [port for state in self.states for port in (state.input, state.output)]
        return {port.name: port.batch_axis for port in ports}


def read_signature(inputs: Sequence[GraphPort], outputs: Sequence[GraphPort], config: OnnxConfig) -> Signature:
    """Puts together what the graph and its config say.

    Raises:
        BundleError: they contradict each other, or a port is no tensor that can be sent.
    """
    into = {port.name: _port(port, "input") for port in inputs}
    out = {port.name: _port(port, "output") for port in outputs}
    _check_names("inputs", config.inputs, into)
    _check_names("outputs", config.outputs, out)
    states = _states(config, into, out)
    taken = {name for state in states for name in (state.input.name, state.output.name)}
    return Signature(
        inputs=tuple(_input(port, config.inputs.get(name)) for name, port in into.items() if name not in taken),
        outputs=tuple(_output(port, config.outputs.get(name)) for name, port in out.items() if name not in taken),
        states=states,
    )


def _port(port: GraphPort, kind: str) -> Port:
    if port.type not in _DATATYPES:
        raise BundleError(
            f"{kind} {port.name!r} is a {port.type}, which cannot be sent; let the graph cast it to one of "
            f"{', '.join(_DATATYPES)}"
        )
    return Port(name=port.name, datatype=_DATATYPES[port.type], dims=tuple(port.shape))


def _check_names(table: str, named: Mapping[str, object], ports: Mapping[str, Port]) -> None:
    for name in named:
        if name not in ports:
            raise BundleError(f"{table}.{name}: the graph has none of that name; it has {_names(ports)}")


def _input(port: Port, config: InputConfig | None) -> Port:
    # A scalar has no axis for rows. ONNX Runtime also says [] where it knows no shape.
    if config is None:
        return dataclasses.replace(port, batch_axis=0 if port.dims else None)
    dims = port.dims if config.shape is None else _narrowed(port, config.shape, f"inputs.{port.name}")
    return dataclasses.replace(
        port,
        dims=dims,
        batch_axis=None if config.shared or not dims else config.batch_axis,
        range=_range(port, config),
        longest=config.longest,
        empty=config.empty,
    )


def _range(port: Port, config: InputConfig) -> tuple[float, float] | None:
    if config.range is None:
        return None
    low, high = config.range
    if port.datatype in ("BYTES", "BOOL"):
        raise BundleError(f"inputs.{port.name}.range: the input is {port.datatype}; leave it out")
    limits = np.iinfo(port.dtype) if port.dtype.kind in "iu" else np.finfo(port.dtype)
    if not limits.min <= low <= high <= limits.max:  # refuses NaN too
        raise BundleError(f"inputs.{port.name}.range: {[low, high]} is no range from low to high of {port.datatype}")
    return low, high


def _output(port: Port, config: OutputConfig | None) -> Port:
    return dataclasses.replace(port, batch_axis=config.batch_axis if config else 0)


def _narrowed(port: Port, shape: Sequence[int], field: str) -> tuple[Dim, ...]:
    """Returns the port's dims where the shape says -1, else the shape's."""
    if port.dims and len(shape) != len(port.dims):
        raise BundleError(f"{field}.shape: {list(shape)} has {len(shape)} axes, the graph has {_shown(port)}")
    dims = port.dims or (None,) * len(shape)
    for ours, theirs in zip(shape, dims, strict=True):
        if isinstance(theirs, int) and ours not in (-1, theirs):
            raise BundleError(f"{field}.shape: {list(shape)} does not fit into the graph's {_shown(port)}")
    return tuple(theirs if ours == -1 else ours for ours, theirs in zip(shape, dims, strict=True))


def _states(config: OnnxConfig, into: Mapping[str, Port], out: Mapping[str, Port]) -> tuple[StatePort, ...]:
    for kind, names in (
        ("input", [state.input for state in config.state]),
        ("output", [state.output for state in config.state]),
    ):
        if repeated := {name for name in names if names.count(name) > 1}:
            raise BundleError(f"state: {kind} {min(repeated)!r} is named twice; each belongs to one state")
    return tuple(_state(state, position, into, out, config) for position, state in enumerate(config.state))


def _state(
    state: StateConfig, position: int, into: Mapping[str, Port], out: Mapping[str, Port], config: OnnxConfig
) -> StatePort:
    field = f"state[{position}]"
    for key, name, ports, table in (
        ("input", state.input, into, config.inputs),
        ("output", state.output, out, config.outputs),
    ):
        if name not in ports:
            raise BundleError(f"{field}.{key}: the graph has no {key} {name!r}; it has {_names(ports)}")
        if name in table:
            raise BundleError(f"{key}s.{name}: is a state; say all of it in [[state]]")
    given, taken = out[state.output], into[state.input]
    _check_pair(field, given, taken)
    dims = taken.dims if state.shape is None else _narrowed(taken, state.shape, field)
    port = dataclasses.replace(taken, dims=dims, batch_axis=state.batch_axis)
    if state.batch_axis >= len(dims):
        raise BundleError(f"{field}.batch_axis: {state.batch_axis} is no axis of {taken.name!r}, {_shown(taken)}")
    for axis, dim in enumerate(dims):
        if axis != state.batch_axis and not isinstance(dim, int):
            raise BundleError(
                f"{field}: axis {axis} of {taken.name!r} has no fixed size in {_shown(taken)}; say in "
                f"{field}.shape what a sequence starts with"
            )
    output = dataclasses.replace(given, batch_axis=state.batch_axis)
    return StatePort(input=port, output=output, takes=taken.dims, initial=_initial(state, port, field))


def _check_pair(field: str, given: Port, taken: Port) -> None:
    if given.datatype != taken.datatype:
        raise BundleError(
            f"{field}: output {given.name!r} is {given.datatype}, input {taken.name!r} is {taken.datatype}; "
            "a state goes from one to the other as it is"
        )
    if taken.datatype == "BYTES":
        raise BundleError(f"{field}: {taken.name!r} is BYTES; a state holds numbers")
    if not (given.dims and taken.dims):
        return
    pairs = [pair for pair in zip(given.dims, taken.dims, strict=False) if all(isinstance(dim, int) for dim in pair)]
    if len(given.dims) != len(taken.dims) or any(one != other for one, other in pairs):
        raise BundleError(
            f"{field}: output {given.name!r} {_shown(given)} does not fit into input {taken.name!r} {_shown(taken)}"
        )


def _initial(state: StateConfig, port: Port, field: str) -> NDArray[Any]:
    """Returns a number, or one row's state with a batch axis of size 1."""
    try:
        value = np.asarray(state.initial)
        if value.dtype.kind not in "iufb":
            raise ValueError("not numbers")
        initial = value.astype(port.dtype)
    except (ValueError, OverflowError, RecursionError):
        raise BundleError(f"{field}.initial: is neither a number nor lists of numbers in one shape") from None
    if not np.array_equal(initial, value) and port.dtype.kind != "f":
        raise BundleError(f"{field}.initial: does not fit into {port.datatype}")
    if not initial.ndim:
        return initial
    row = tuple(dim for axis, dim in enumerate(port.dims) if axis != port.batch_axis)
    if initial.shape != row:
        raise BundleError(f"{field}.initial: has shape {list(initial.shape)}, one row's state has {list(row)}")
    return np.expand_dims(initial, port.batch_axis or 0)


def _names(ports: Mapping[str, Port]) -> str:
    return ", ".join(map(repr, ports)) or "none"


def _shown(port: Port) -> str:
    return _shown_dims(port.dims)


def _shown_dims(dims: Sequence[Dim]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"
