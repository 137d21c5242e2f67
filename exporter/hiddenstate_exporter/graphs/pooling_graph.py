"""Pooling as ONNX nodes: the outputs of a sentence's tokens become one vector.

Nothing here leans on what a provider leaves in the outputs behind a sentence's end.
"""

from typing import Literal

import numpy as np

from hiddenstate_exporter.graphs.graph_builder import FLOAT, INT64, GraphBuilder
from hiddenstate_exporter.graphs.stack_graph import last_outputs
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.weights import Weights, tensor

Pooling = Literal["mean", "max", "last", "attention"]


def pool(builder: GraphBuilder, weights: Weights, shape: StackShape, x: str, pooling: Pooling) -> tuple[str, int]:
    """Pools outputs `x` float32 [seq, batch, output_size] over the `lengths` int32 [batch] that are valid.

    Returns:
        The pooled vectors, float32 [batch, width] whatever the graph computes in, and their width.
    """
    if pooling == "last":
        return builder.to_float32(_pool_last(builder, shape, x)), shape.output_size
    if pooling == "max":
        return builder.to_float32(_pool_max(builder, shape, x)), shape.output_size
    valid = valid_positions(builder, x)
    if pooling == "mean":
        return _pool_mean(builder, builder.to_float32(x), valid), shape.output_size
    return _pool_by_attention(builder, weights, shape.output_size, x, valid)


def _pool_last(builder: GraphBuilder, shape: StackShape, x: str) -> str:
    """Takes each direction where it ends: forwards at the last token, backwards at the first."""
    last = last_outputs(builder, x)  # [batch, output_size]
    if not shape.bidirectional:
        return last
    by_direction = builder.constant([0, -1, 2, shape.hidden_size])  # both directions of each layer; 0 keeps an axis
    first = builder.op("Gather", x, builder.constant(0), axis=0)
    ends = builder.op(
        "Where",
        builder.constant([[True], [False]], np.bool_),  # forwards, backwards
        builder.op("Reshape", last, by_direction),
        builder.op("Reshape", first, by_direction),
    )
    return builder.op("Reshape", ends, builder.constant([0, shape.output_size]))


def _pool_max(builder: GraphBuilder, shape: StackShape, x: str) -> str:
    """Reads the last token again in place of what lies behind it, which changes no maximum.

    One Gather thus masks, and puts the batch first: over the first axis, ONNX Runtime's ReduceMax takes ten times as
    long as over the second.
    """
    rows = builder.op("Reshape", x, builder.constant([-1, shape.output_size]))  # [seq * batch, output_size]
    return builder.op("ReduceMax", builder.op("Gather", rows, _valid_rows(builder, x), axis=0), axes=[1], keepdims=0)


def _valid_rows(builder: GraphBuilder, x: str) -> str:
    """Returns where in [seq * batch] each token lies, the last again behind a sentence's end: int64 [batch, seq]."""
    seq, batch_size = (builder.op("Squeeze", builder.op("Shape", x, start=axis, end=axis + 1)) for axis in (0, 1))
    positions, rows = (
        builder.op("Range", builder.constant(0), size, builder.constant(1)) for size in (seq, batch_size)
    )  # [seq], [batch]
    last = builder.op("Sub", builder.op("Cast", "lengths", to=INT64), builder.constant(1))  # [batch]
    last, rows = (builder.op("Unsqueeze", each, builder.constant([1])) for each in (last, rows))
    return builder.op("Add", builder.op("Mul", builder.op("Min", positions, last), batch_size), rows)


def _pool_mean(builder: GraphBuilder, x: str, valid: str) -> str:
    masked = builder.op("Where", valid, x, builder.constant(0.0, np.float32))
    total = builder.op("ReduceSum", masked, builder.constant([0]), keepdims=0)
    count = builder.op("Cast", builder.op("Unsqueeze", "lengths", builder.constant([1])), to=FLOAT)
    return builder.op("Div", total, count)


def _pool_by_attention(builder: GraphBuilder, weights: Weights, width: int, x: str, valid: str) -> tuple[str, int]:
    """Adds `pooling.AttentionPooling`: a softmax over positions for each head, the heads' sums side by side."""
    w1 = tensor(weights, "pooling.w1.weight", (None, width))  # [attention_size, width]
    w2 = tensor(weights, "pooling.w2.weight", (None, w1.shape[0]))  # [heads, attention_size]
    hidden = builder.op("Tanh", builder.product("pooling.w1.weight", w1, x))
    scores = builder.to_float32(builder.product("pooling.w2.weight", w2, hidden))  # [seq, batch, heads]
    masked = builder.op("Where", valid, scores, builder.constant(-np.inf, np.float32))
    shares = builder.op("Transpose", builder.op("Softmax", masked, axis=0), perm=[1, 2, 0])  # [batch, heads, seq]
    x = builder.op("Where", valid, builder.to_float32(x), builder.constant(0.0, np.float32))
    rows = builder.op("Transpose", x, perm=[1, 0, 2])
    pooled_size = len(w2) * width
    sums = builder.op("MatMul", shares, rows)  # [batch, heads, width]
    return builder.op("Reshape", sums, builder.constant([0, pooled_size])), pooled_size


def valid_positions(builder: GraphBuilder, x: str) -> str:
    """Returns bool [seq, batch, 1]: whether a position lies within its sentence."""
    seq = builder.op("Squeeze", builder.op("Shape", x, start=0, end=1))
    positions = builder.op("Range", builder.constant(0), seq, builder.constant(1))  # [seq]
    column = builder.op("Unsqueeze", positions, builder.constant([1, 2]))  # [seq, 1, 1]
    lengths = builder.op("Unsqueeze", builder.op("Cast", "lengths", to=INT64), builder.constant([1]))  # [batch, 1]
    return builder.op("Less", column, lengths)
