"""One direction of a recurrent layer with an int8 recurrent product, as a loop over time."""

from collections.abc import Sequence
from typing import Final

from hiddenstate_exporter.graphs.cell_graph import OPERATORS
from hiddenstate_exporter.graphs.cell_step import STEPS
from hiddenstate_exporter.graphs.graph_builder import FLOAT, array_info
from hiddenstate_exporter.graphs.quantizer import Quantizer
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.weights import Weights

# h is tanh (RNN), o * tanh(c) with o in 0..1 (LSTM), or lies between tanh and the h before (GRU): from an h within
# the bound none ever leaves it.
H_BOUND: Final = 1.0


def int8_layer(
    quantizer: Quantizer,
    weights: Weights,
    shape: StackShape,
    suffix: str,
    x: str,
    initial: Sequence[str],
    *,
    collected: int,
) -> list[str]:
    """Adds one direction of a layer; it runs to the longest row's end and needs no lengths.

    Args:
        quantizer: The graph.
        weights: All weights of the model.
        shape: Sizes of the stack.
        suffix: How the names of its tensors end.
        x: What the input gives to the gates, with its bias: float32 [seq, batch, gates * hidden_size].
        initial: The state before the first token, in the order of `shape.state_parts`, each [batch, hidden_size].
        collected: How many of those parts to return.

    Returns:
        The state after each token, each part [seq, batch, hidden_size]. The first, h, is the layer's output.
    """
    name, builder = f"rnn.{suffix}", quantizer.builder
    body = builder.branch(name)
    before = [f"{name}.step.{part}" for part in shape.state_parts]
    step_x = f"{name}.step.x"
    loop = Quantizer(body)
    reorder = OPERATORS[shape.cell].reorder
    r = loop.product(
        f"{name}.R",
        reorder(weights[f"rnn.weight_hh_{suffix}"]),
        loop.quantize(before[0], H_BOUND),
        reorder(weights[f"rnn.bias_hh_{suffix}"]),
    )
    after = STEPS[shape.cell](body, shape.hidden_size, step_x, r, before)
    kept = [
        body.op("Identity", value) for value in after[:collected]
    ]  # a value cannot be both carried on and collected
    size: list[str | int] = ["batch", shape.hidden_size]
    graph = body.branch_graph(
        outputs=[array_info(value, FLOAT, size) for value in (*after, *kept)],
        inputs=[
            *(array_info(value, FLOAT, size) for value in before),
            array_info(step_x, FLOAT, ["batch", len(OPERATORS[shape.cell].onnx_gates) * shape.hidden_size]),
        ],
    )
    outputs = [*(f"last_{part}" for part in shape.state_parts), *shape.state_parts[:collected]]
    results = builder.ops("Scan", *initial, x, outputs=outputs, node=name, body=graph, num_scan_inputs=1)
    states = results[len(before) :]
    quantizer.bounds[states[0]] = H_BOUND  # what the loop reads is what it has given
    return states
