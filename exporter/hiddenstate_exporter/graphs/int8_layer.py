"""One direction of a recurrent layer with an int8 recurrent product, as a loop over time.

A value cannot be both carried on and collected: one which is both is copied. Where only the product reads h, the loop
carries it on in uint8 and collects it in float32, without a copy.
"""

from collections.abc import Sequence

import onnx

from hiddenstate_exporter.graphs.cell_graph import OPERATORS
from hiddenstate_exporter.graphs.cell_step import READS_H, STEPS
from hiddenstate_exporter.graphs.graph_builder import FLOAT, UINT8, GraphBuilder, array_info
from hiddenstate_exporter.graphs.quantizer import Quantized, Quantizer
from hiddenstate_exporter.graphs.stack_shape import H_BOUND, StackShape
from hiddenstate_exporter.graphs.weights import Weights


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
    builder = quantizer.builder
    if shape.cell not in READS_H:
        initial = [_quantize(builder, initial[0]).value, *initial[1:]]
    body = _body(builder, weights, shape, suffix, collected)
    outputs = [*(f"last_{part}" for part in shape.state_parts), *shape.state_parts[:collected]]
    results = builder.ops("Scan", *initial, x, outputs=outputs, node=f"rnn.{suffix}", body=body, num_scan_inputs=1)
    states = results[len(initial) :]
    quantizer.bounds[states[0]] = H_BOUND  # what the loop reads is what it has given
    return states


def _body(builder: GraphBuilder, weights: Weights, shape: StackShape, suffix: str, collected: int) -> onnx.GraphProto:
    """Builds one step of the loop, which takes the state and an x, and gives the next state and what is collected."""
    name, reorder = f"rnn.{suffix}", OPERATORS[shape.cell].reorder
    body = builder.branch(name)
    before, step_x = [f"{name}.step.{part}" for part in shape.state_parts], f"{name}.step.x"
    is_quantized = shape.cell not in READS_H
    r = Quantizer(body).product(
        f"{name}.R",
        reorder(weights[f"rnn.weight_hh_{suffix}"]),
        Quantized(before[0], H_BOUND) if is_quantized else _quantize(body, before[0]),
        reorder(weights[f"rnn.bias_hh_{suffix}"]),
    )
    after = STEPS[shape.cell](body, shape.hidden_size, step_x, r, before)
    carried = [_quantize(body, after[0]).value, *after[1:]] if is_quantized else after
    kept = [body.op("Identity", value) if value in carried else value for value in after[:collected]]
    size: list[str | int] = ["batch", shape.hidden_size]
    types = [UINT8 if is_quantized else FLOAT, *[FLOAT] * len(after[1:])]
    return body.branch_graph(
        outputs=[
            *(array_info(value, dtype, size) for value, dtype in zip(carried, types, strict=True)),
            *(array_info(value, FLOAT, size) for value in kept),
        ],
        inputs=[
            *(array_info(value, dtype, size) for value, dtype in zip(before, types, strict=True)),
            array_info(step_x, FLOAT, ["batch", len(OPERATORS[shape.cell].onnx_gates) * shape.hidden_size]),
        ],
    )


def _quantize(builder: GraphBuilder, h: str) -> Quantized:
    return Quantizer(builder).quantize(h, H_BOUND)
