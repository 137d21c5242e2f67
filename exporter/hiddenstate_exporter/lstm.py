"""A stack of LSTM layers as ONNX nodes, from weights named as in `torch.nn.LSTM`."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graph_builder import GraphBuilder
from hiddenstate_exporter.weights import Weights, WeightsError, tensor

TORCH_GATES = "ifgo"  # torch.nn.LSTM: input, forget, cell (g), output
ONNX_GATES = "iofg"  # ONNX LSTM: input, output, forget, cell
_GATE_ORDER = [TORCH_GATES.index(gate) for gate in ONNX_GATES]
_PREFIX = "rnn."
_LAYER = re.compile(r"^rnn\.\w+_l(\d+)(_reverse)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LstmShape:
    """Sizes of a stack of LSTM layers."""

    input_size: int
    hidden_size: int  # of one direction
    num_layers: int
    bidirectional: bool

    @property
    def num_directions(self) -> int:
        """1, or 2 for a bidirectional stack."""
        return 1 + self.bidirectional

    @property
    def output_size(self) -> int:
        """Width of the top layer's output."""
        return self.hidden_size * self.num_directions

    @property
    def state_size(self) -> int:
        """float32 values of one context's packed state."""
        return 2 * self.num_layers * self.output_size


def lstm_shape(weights: Weights) -> LstmShape:
    """Reads the sizes of a stack off its weights, and checks that all its tensors are there and agree.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape than the first layer asks for.
    """
    gates, input_size = tensor(weights, f"{_PREFIX}weight_ih_l0", (None, None)).shape
    shape = LstmShape(
        input_size=input_size,
        hidden_size=gates // len(TORCH_GATES),
        num_layers=1 + max(int(found[1]) for name in weights if (found := _LAYER.search(name))),
        bidirectional=f"{_PREFIX}weight_ih_l0_reverse" in weights,
    )
    expected = _expected(shape)
    for name, size in expected.items():
        tensor(weights, name, size)
    for name in weights:
        if name.startswith(_PREFIX) and name not in expected:
            raise WeightsError(f"tensor {name!r} does not belong to {shape}")
    return shape


def embed(builder: GraphBuilder, weights: Weights, shape: LstmShape) -> str:
    """Looks `tokens` [batch, seq] up in the embedding table: float32 [seq, batch, input_size].

    Time comes first because no ONNX Runtime provider supports the LSTM's batch-first layout. Rows are widened after
    the look-up, so that the table stays as small in memory as it is on disk.
    """
    table = builder.stored("embedding.weight", tensor(weights, "embedding.weight", (None, shape.input_size)))
    tokens = builder.op("Transpose", "tokens", perm=[1, 0])
    return builder.widen(builder.op("Gather", table, tokens, axis=0))


def lstm_layer(
    builder: GraphBuilder,
    weights: Weights,
    layer: int,
    shape: LstmShape,
    inputs: str,
    lengths: str,
    initial: tuple[str, str] | None,
) -> tuple[str, str, str]:
    """Adds one layer.

    Args:
        builder: The graph.
        weights: All weights of the model.
        layer: The layer's number, from 0.
        shape: Sizes of the stack.
        inputs: float32 [seq, batch, input_size].
        lengths: int32 [batch].
        initial: h and c before the first token, each float32 [directions, batch, hidden_size]; None for zeros.

    Returns:
        The outputs, float32 [seq, directions, batch, hidden_size], and h and c after each context's last token,
        each float32 [directions, batch, hidden_size].
    """
    name = f"{_PREFIX}l{layer}"
    w, r, b = (
        builder.weight(f"{name}.{part}", array)
        for part, array in zip("WRB", _onnx_weights(weights, layer, shape), strict=True)
    )
    y, h, c = builder.ops(
        "LSTM",
        *(inputs, w, r, b, lengths),
        *(initial or ()),
        outputs=("Y", "Y_h", "Y_c"),
        hidden_size=shape.hidden_size,
        direction="bidirectional" if shape.bidirectional else "forward",
    )
    return y, h, c


def _expected(shape: LstmShape) -> dict[str, tuple[int, ...]]:
    """Lists the tensors of a stack with their shapes."""
    gates = len(TORCH_GATES) * shape.hidden_size
    expected: dict[str, tuple[int, ...]] = {}
    for layer in range(shape.num_layers):
        width = shape.output_size if layer else shape.input_size
        for suffix in _suffixes(layer, shape):
            expected[f"{_PREFIX}weight_ih_{suffix}"] = (gates, width)
            expected[f"{_PREFIX}weight_hh_{suffix}"] = (gates, shape.hidden_size)
            expected[f"{_PREFIX}bias_ih_{suffix}"] = (gates,)
            expected[f"{_PREFIX}bias_hh_{suffix}"] = (gates,)
    return expected


def _suffixes(layer: int, shape: LstmShape) -> list[str]:
    return [f"l{layer}", f"l{layer}_reverse"][: shape.num_directions]


def _onnx_weights(weights: Weights, layer: int, shape: LstmShape) -> list[NDArray[np.float32]]:
    """Returns W [directions, 4H, input], R [directions, 4H, H] and B [directions, 8H] (both biases, not summed)."""
    suffixes = _suffixes(layer, shape)
    w = [_reorder(weights[f"{_PREFIX}weight_ih_{suffix}"]) for suffix in suffixes]
    r = [_reorder(weights[f"{_PREFIX}weight_hh_{suffix}"]) for suffix in suffixes]
    b = [
        np.concatenate([_reorder(weights[f"{_PREFIX}bias_{part}_{suffix}"]) for part in ("ih", "hh")])
        for suffix in suffixes
    ]
    return [np.stack(w), np.stack(r), np.stack(b)]


def _reorder(array: NDArray[Any]) -> NDArray[Any]:
    """Puts the gates, stacked along the first axis, into the ONNX order."""
    return np.concatenate([np.split(array, len(TORCH_GATES))[gate] for gate in _GATE_ORDER])
