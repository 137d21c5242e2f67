"""One recurrent layer as an ONNX node, from tensors named and ordered as PyTorch has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.graph_builder import GraphBuilder
from hiddenstate_exporter.graphs.stack_shape import Cell, StackShape
from hiddenstate_exporter.graphs.weights import Weights


@dataclass(frozen=True, slots=True)
class CellOperator:
    """The ONNX operator of a cell. Gates are blocks of hidden_size rows, one letter each."""

    op_type: str
    torch_gates: str
    onnx_gates: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def reorder(self, array: NDArray[Any]) -> NDArray[Any]:
        """Puts the gates, stacked along the first axis, from PyTorch's order into that of ONNX."""
        blocks = np.split(array, len(self.torch_gates))
        return np.concatenate([blocks[self.torch_gates.index(gate)] for gate in self.onnx_gates])


# The letters are PyTorch's: input, forget, cell (g), output; reset, update (z), new. ONNX writes c for g and h for n.
OPERATORS: Final[Mapping[Cell, CellOperator]] = {
    "rnn": CellOperator("RNN", "h", "h"),  # tanh in both, unless told otherwise
    "lstm": CellOperator("LSTM", "ifgo", "iofg"),
    # PyTorch's reset gate acts behind the candidate's recurrent product and its bias, not before it.
    "gru": CellOperator("GRU", "rzn", "zrn", {"linear_before_reset": 1}),
}


def cell_layer(
    builder: GraphBuilder,
    weights: Weights,
    shape: StackShape,
    layer: int,
    inputs: str,
    initial: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """Adds one layer, which reads `lengths` int32 [batch].

    Args:
        builder: The graph.
        weights: All weights of the model.
        shape: Sizes of the stack.
        layer: The layer's number, from 0.
        inputs: float32 [seq, batch, layer_input_size].
        initial: The state before the first token, in the order of `shape.state_parts`, each float32 [directions,
            batch, hidden_size]; nothing for zeros.

    Returns:
        The outputs, float32 [seq, directions, batch, hidden_size], and the state after each context's last token,
        as `initial`.
    """
    operator = OPERATORS[shape.cell]
    tensors = (
        builder.weight(f"rnn.l{layer}.{part}", array)
        for part, array in zip("WRB", _onnx_weights(weights, shape, layer), strict=True)
    )
    y, *final = builder.ops(
        operator.op_type,
        *(inputs, *tensors, "lengths", *initial),
        outputs=("Y", *(f"Y_{part}" for part in shape.state_parts)),
        hidden_size=shape.hidden_size,
        direction="bidirectional" if shape.bidirectional else "forward",
        **operator.attributes,
    )
    return y, final


def _onnx_weights(weights: Weights, shape: StackShape, layer: int) -> list[NDArray[np.float32]]:
    """Returns W [directions, gates * H, input], R [directions, gates * H, H] and B [directions, 2 * gates * H].

    B holds both biases one behind the other, not their sum.
    """
    reorder, suffixes = OPERATORS[shape.cell].reorder, shape.suffixes(layer)
    w = [reorder(weights[f"rnn.weight_ih_{suffix}"]) for suffix in suffixes]
    r = [reorder(weights[f"rnn.weight_hh_{suffix}"]) for suffix in suffixes]
    b = [
        np.concatenate([reorder(weights[f"rnn.bias_{part}_{suffix}"]) for part in ("ih", "hh")]) for suffix in suffixes
    ]
    return [np.stack(w), np.stack(r), np.stack(b)]
