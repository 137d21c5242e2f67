"""One step of each recurrent cell as elementwise ONNX nodes, for a loop over time.

A step takes what the input gives to the gates and what the recurrent product gives, each [batch, gates * hidden_size]
with the gates in the order of `cell_graph.OPERATORS`, and the state; it returns the next state. Biases are in the
products. Gates with a sigmoid come first in that order.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from hiddenstate_exporter.graphs.graph_builder import GraphBuilder
from hiddenstate_exporter.graphs.stack_shape import Cell

Step = Callable[[GraphBuilder, int, str, str, Sequence[str]], list[str]]


def _rnn(body: GraphBuilder, size: int, x: str, r: str, state: Sequence[str]) -> list[str]:
    return [body.op("Tanh", body.op("Add", r, x))]


def _lstm(body: GraphBuilder, size: int, x: str, r: str, state: Sequence[str]) -> list[str]:
    _, c = state
    # A Split copies: one, and a Sigmoid for each gate, is faster than one Sigmoid between two.
    *gates, candidate = _split(body, body.op("Add", r, x), size, size, size, size)
    i, o, f = (body.op("Sigmoid", gate) for gate in gates)
    kept, new = body.op("Mul", f, c), body.op("Mul", i, body.op("Tanh", candidate))
    c = body.op("Add", kept, new)
    return [body.op("Mul", o, body.op("Tanh", c)), c]


def _gru(body: GraphBuilder, size: int, x: str, r: str, state: Sequence[str]) -> list[str]:
    (h,) = state
    x_gates, x_new = _split(body, x, 2 * size, size)
    r_gates, r_new = _split(body, r, 2 * size, size)
    z, reset = _split(body, body.op("Sigmoid", body.op("Add", r_gates, x_gates)), size, size)
    new = body.op("Tanh", body.op("Add", body.op("Mul", reset, r_new), x_new))
    return [body.op("Add", new, body.op("Mul", z, body.op("Sub", h, new)))]  # (1 - z) * new + z * h


def _split(body: GraphBuilder, value: str, *sizes: int) -> list[str]:
    return body.ops("Split", value, body.constant(sizes), outputs=[str(part) for part in range(len(sizes))], axis=1)


STEPS: Final[Mapping[Cell, Step]] = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}
READS_H: Final[frozenset[Cell]] = frozenset({"gru"})  # cells whose step reads h, not only the recurrent product with it
