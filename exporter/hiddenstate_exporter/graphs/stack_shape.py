"""A stack of recurrent layers: its sizes, the names and shapes of its tensors, how its state is packed. No PyTorch.

Layer l reads x_l and gives y_l, both directions side by side; x_0 is the embedding. Between the layers:

    none      x_{l+1} = y_l
    residual  x_{l+1} = y_l + x_l
    highway   x_{l+1} = t * y_l + (1 - t) * x_l, where t = sigmoid(W_l x_l + b_l)
    dense     x_{l+1} = [x_0, y_0, ..., y_l]

Residual and highway begin with the second layer (x_1 = y_0), since the embedding may have another width. The stack's
output is x_L of its L layers; of a dense stack it is [y_0, ..., y_{L-1}].

Residual: He et al., "Deep Residual Learning for Image Recognition" (2016), in recurrent stacks Wu et al., "Google's
Neural Machine Translation System" (2016). Highway: Srivastava, Greff & Schmidhuber, "Highway Networks" (2015). Dense:
Godin, Dambre & De Neve, "Improving Language Modeling using Densely Connected Recurrent Neural Networks" (2017).

Tensors are named as in the state_dict of `torch.nn.RNN`, `LSTM` or `GRU` (k is the layer, from 0), all below `rnn.`:

    weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}    and the same with _reverse for the other direction
    highway_l{k}.weight, highway_l{k}.bias                        W_k and b_k, k >= 1
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from hiddenstate_exporter.graphs.weights import Weights, WeightsError, tensor

Cell = Literal["rnn", "lstm", "gru"]
Connections = Literal["none", "residual", "highway", "dense"]
StatePart = Literal["h", "c"]

MAX_LAYERS: Final = 8
GATES: Final[Mapping[Cell, int]] = {"rnn": 1, "lstm": 4, "gru": 3}  # blocks of hidden_size rows in each tensor
STATE_PARTS: Final[Mapping[Cell, tuple[StatePart, ...]]] = {"rnn": ("h",), "lstm": ("h", "c"), "gru": ("h",)}

_PREFIX = "rnn."
_LAYER = re.compile(r"^rnn\.\w+_l(?P<layer>\d+)(?P<reverse>_reverse)?(\.\w+)?$")

# h is tanh (RNN), o * tanh(c) with o in 0..1 (LSTM), or lies between tanh and the h before (GRU): from an h within
# the bound none ever leaves it.
H_BOUND: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackShape:
    """The sizes of a stack of recurrent layers."""

    cell: Cell
    connections: Connections
    input_size: int
    hidden_size: int  # of one direction
    num_layers: int
    bidirectional: bool = False

    def __str__(self) -> str:
        directions = "bidirectional " if self.bidirectional else ""
        connections = "no" if self.connections == "none" else self.connections
        sizes = f"{self.num_layers}x{self.hidden_size}, embedding {self.input_size}"
        return f"{directions}{self.cell.upper()} {sizes}, {connections} connections"

    @property
    def num_directions(self) -> int:
        """1, or 2 for a bidirectional stack."""
        return 1 + self.bidirectional

    @property
    def layer_output_size(self) -> int:
        """Width of each y_l."""
        return self.hidden_size * self.num_directions

    @property
    def output_size(self) -> int:
        """Width of the stack's output."""
        return self.layer_output_size * (self.num_layers if self.connections == "dense" else 1)

    def layer_input_size(self, layer: int) -> int:
        """Width of x_l."""
        if self.connections == "dense":
            return self.input_size + layer * self.layer_output_size
        return self.layer_output_size if layer else self.input_size

    def has_gate(self, layer: int) -> bool:
        """Whether x_{l+1} comes out of a highway gate."""
        return self.connections == "highway" and layer > 0

    def suffixes(self, layer: int) -> list[str]:
        """Returns how the tensor names of a layer end, one for each direction."""
        return [f"l{layer}", f"l{layer}_reverse"][: self.num_directions]

    @property
    def state_parts(self) -> tuple[StatePart, ...]:
        """What a layer carries from token to token."""
        return STATE_PARTS[self.cell]

    def state_offset(self, layer: int, part: StatePart) -> int:
        """Returns where a layer's h or c [hidden_size] begins in the packed state: h_0, c_0, h_1, c_1, ..."""
        return (layer * len(self.state_parts) + self.state_parts.index(part)) * self.hidden_size

    @property
    def keeps_output(self) -> bool:
        """Whether the last output stands at the end of the packed state, because it is not a slice of the rest."""
        if self.num_layers == 1 or self.connections == "none":
            return False
        return self.connections != "dense" or len(self.state_parts) > 1

    @property
    def output_bound(self) -> float:
        """Largest absolute value of the stack's output: a layer's own keep to 1, and a residual stack adds them up."""
        return self.num_layers * H_BOUND if self.connections == "residual" else H_BOUND

    @property
    def output_offset(self) -> int:
        """Where the last output [output_size] begins in the packed state."""
        if self.keeps_output:
            return self._layers_state_size
        return 0 if self.connections == "dense" else self.state_offset(self.num_layers - 1, "h")

    @property
    def state_size(self) -> int:
        """float32 values of one context's packed state (of a stack that reads forwards only)."""
        return self._layers_state_size + (self.output_size if self.keeps_output else 0)

    @property
    def _layers_state_size(self) -> int:
        return self.num_layers * len(self.state_parts) * self.hidden_size


def tensor_shapes(shape: StackShape) -> dict[str, tuple[int, ...]]:
    """Lists all tensors of a stack with their shapes."""
    rows = GATES[shape.cell] * shape.hidden_size
    tensors: dict[str, tuple[int, ...]] = {}
    for layer in range(shape.num_layers):
        width = shape.layer_input_size(layer)
        for suffix in shape.suffixes(layer):
            tensors[f"{_PREFIX}weight_ih_{suffix}"] = (rows, width)
            tensors[f"{_PREFIX}weight_hh_{suffix}"] = (rows, shape.hidden_size)
            tensors[f"{_PREFIX}bias_ih_{suffix}"] = (rows,)
            tensors[f"{_PREFIX}bias_hh_{suffix}"] = (rows,)
        if shape.has_gate(layer):
            tensors[f"{_PREFIX}highway_l{layer}.weight"] = (width, width)
            tensors[f"{_PREFIX}highway_l{layer}.bias"] = (width,)
    return tensors


def read_stack_shape(weights: Weights, cell: Cell, connections: Connections) -> StackShape:
    """Reads the sizes of a stack off its tensors, and checks that all of them are there and agree.

    Raises:
        WeightsError: a tensor is missing, left over, or of another shape than the first layer, the cell and the
            connections ask for.
    """
    rows, input_size = tensor(weights, f"{_PREFIX}weight_ih_l0", (None, None)).shape
    _, hidden_size = tensor(weights, f"{_PREFIX}weight_hh_l0", (rows, None)).shape
    _check_gates(rows, hidden_size, cell)
    names = [found for name in weights if (found := _LAYER.search(name))]
    shape = StackShape(
        cell=cell,
        connections=connections,
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=1 + max(int(found["layer"]) for found in names),
        bidirectional=any(found["reverse"] for found in names),
    )
    _check_tensors(weights, shape)
    return shape


def _check_gates(rows: int, hidden_size: int, cell: Cell) -> None:
    if rows == GATES[cell] * hidden_size:
        return
    found = [other.upper() for other, gates in GATES.items() if rows == gates * hidden_size]
    raise WeightsError(
        f"tensor 'rnn.weight_hh_l0' has shape [{rows}, {hidden_size}], which is not that of a cell {cell!r}"
        + (f" but of {found[0]}" if found else f": {GATES[cell]} times as many rows as columns are due")
    )


def _check_tensors(weights: Weights, shape: StackShape) -> None:
    expected = tensor_shapes(shape)
    try:
        for name, size in expected.items():
            tensor(weights, name, size)
    except WeightsError as error:
        raise WeightsError(f"{error} (the stack is: {shape})") from None
    for name in weights:
        if name.startswith(_PREFIX) and name not in expected:
            raise WeightsError(f"tensor {name!r} does not belong to the stack: {shape}")
