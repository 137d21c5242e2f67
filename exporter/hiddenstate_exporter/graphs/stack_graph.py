"""A stack of recurrent layers as ONNX nodes; `stack_shape` says what stands between the layers."""

from collections.abc import Sequence

from hiddenstate_exporter.graphs.cell_graph import cell_layer
from hiddenstate_exporter.graphs.graph_builder import INT64, GraphBuilder
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.weights import Weights, tensor


def embed(builder: GraphBuilder, weights: Weights, input_size: int) -> str:
    """Looks `tokens` [batch, seq] up in the embedding table: float32 [seq, batch, input_size].

    Time comes first because no ONNX Runtime provider supports the batch-first layout of recurrent layers. Rows are
    widened after the look-up, so that the table stays as small in memory as it is on disk.
    """
    table = builder.stored("embedding.weight", tensor(weights, "embedding.weight", (None, input_size)))
    tokens = builder.op("Transpose", "tokens", perm=[1, 0])
    return builder.widen(builder.op("Gather", table, tokens, axis=0))


def stack(
    builder: GraphBuilder, weights: Weights, shape: StackShape, x: str, initial: Sequence[Sequence[str]] = ()
) -> tuple[str, list[list[str]]]:
    """Adds all layers, which read `x` float32 [seq, batch, input_size] and `lengths` int32 [batch].

    Args:
        builder: The graph.
        weights: All weights of the model.
        shape: Sizes of the stack.
        x: What the first layer reads.
        initial: For each layer the parts of its state before the first token, each float32 [directions, batch,
            hidden_size]; nothing for zeros.

    Returns:
        The stack's outputs, float32 [seq, batch, output_size], and for each layer its state after each context's last
        token, as `initial`.
    """
    outputs, final = [], []
    for layer in range(shape.num_layers):
        y, state = cell_layer(builder, weights, shape, layer, x, initial[layer] if initial else ())
        outputs.append(_join_directions(builder, y, shape))
        final.append(state)
        if layer + 1 < shape.num_layers or shape.connections != "dense":
            x = connect(builder, weights, shape, layer, x, outputs[-1])
    return (concat(builder, outputs) if shape.connections == "dense" else x), final


def connect(builder: GraphBuilder, weights: Weights, shape: StackShape, layer: int, x: str, y: str) -> str:
    """Returns x_{l+1} of x_l and y_l, each [seq, batch, width]."""
    if shape.connections == "dense":
        return concat(builder, [x, y])
    if shape.connections == "none" or layer == 0:
        return y
    if shape.connections == "residual":
        return builder.op("Add", y, x)
    gate = _highway_gate(builder, weights, shape, layer, x)
    kept = builder.op("Sub", builder.number(1.0), gate)
    return builder.op("Add", builder.op("Mul", gate, y), builder.op("Mul", kept, x))


def last_outputs(builder: GraphBuilder, outputs: str) -> str:
    """Returns the outputs [batch, output_size] at each context's last token, of outputs [seq, batch, output_size]."""
    lengths = builder.op("Cast", "lengths", to=INT64)
    backwards = builder.op("ReverseSequence", outputs, lengths, time_axis=0, batch_axis=1)
    return builder.op("Gather", backwards, builder.constant(0), axis=0)


def concat(builder: GraphBuilder, values: Sequence[str]) -> str:
    """Puts values [seq, batch, ...] side by side."""
    return values[0] if len(values) == 1 else builder.op("Concat", *values, axis=2)


def _highway_gate(builder: GraphBuilder, weights: Weights, shape: StackShape, layer: int, x: str) -> str:
    name, width = f"rnn.highway_l{layer}", shape.layer_input_size(layer)
    product = builder.product(f"{name}.weight", tensor(weights, f"{name}.weight", (width, width)), x)
    bias = builder.weight(f"{name}.bias", tensor(weights, f"{name}.bias", (width,)))
    return builder.op("Sigmoid", builder.op("Add", product, bias))


def _join_directions(builder: GraphBuilder, y: str, shape: StackShape) -> str:
    """Puts the directions of [seq, directions, batch, hidden_size] side by side: [seq, batch, layer_output_size]."""
    if not shape.bidirectional:
        return builder.op("Squeeze", y, builder.constant([1]))
    width = builder.constant([0, 0, shape.layer_output_size])  # 0 keeps an axis
    return builder.op("Reshape", builder.op("Transpose", y, perm=[0, 2, 1, 3]), width)
