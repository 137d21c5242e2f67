"""The graph of a sentence encoder: tokens to one vector for each sentence."""

from typing import Literal

import numpy as np
import onnx

from hiddenstate_exporter.graph_builder import FLOAT, INT32, INT64, GraphBuilder, array_info
from hiddenstate_exporter.lstm import LstmShape, embed, lstm_layer, lstm_shape
from hiddenstate_exporter.weights import Weights, tensor

Pooling = Literal["mean", "max", "last"]

NORM_EPSILON = 1e-12  # as torch.nn.functional.normalize


def encoder_graph(builder: GraphBuilder, weights: Weights, *, pooling: Pooling, normalized: bool) -> onnx.ModelProto:
    """Builds the graph `encoder`."""
    shape = lstm_shape(weights)
    x = embed(builder, weights, shape)  # [seq, batch, embedding_size]
    for layer in range(shape.num_layers):
        y, h, _ = lstm_layer(builder, weights, layer, shape, x, "lengths", None)
        x = _join_directions(builder, y, [0, 2, 1, 3], [0, 0, shape.output_size])  # [seq, batch, output_size]
    if pooling == "last":
        pooled = _join_directions(builder, h, [1, 0, 2], [0, shape.output_size])  # [batch, output_size]
    else:
        pooled = _pool(builder, x, pooling)
    embeddings = _project(builder, weights, shape, pooled)  # [batch, dimension]
    builder.name_output(_normalize(builder, embeddings) if normalized else embeddings, "embeddings")
    dimension = weights["projection.bias"].shape[0]
    return builder.model(
        inputs=[array_info("tokens", INT64, ["batch", "seq"]), array_info("lengths", INT32, ["batch"])],
        outputs=[array_info("embeddings", FLOAT, ["batch", dimension])],
    )


def _join_directions(builder: GraphBuilder, value: str, order: list[int], shape: list[int]) -> str:
    """Puts both directions of a layer side by side; 0 in `shape` keeps an axis."""
    return builder.op("Reshape", builder.op("Transpose", value, perm=order), builder.constant(shape))


def _pool(builder: GraphBuilder, x: str, pooling: Literal["mean", "max"]) -> str:
    """Pools over the valid positions of `x` [seq, batch, output_size].

    The mask does not lean on what a provider leaves in the outputs after a sentence's end.
    """
    valid = _valid_positions(builder, x)
    neutral = builder.constant(0.0 if pooling == "mean" else -np.inf, np.float32)
    masked = builder.op("Where", valid, x, neutral)
    if pooling == "max":
        return builder.op("ReduceMax", masked, axes=[0], keepdims=0)
    total = builder.op("ReduceSum", masked, builder.constant([0]), keepdims=0)
    count = builder.op("Cast", builder.op("Unsqueeze", "lengths", builder.constant([1])), to=FLOAT)
    return builder.op("Div", total, count)


def _valid_positions(builder: GraphBuilder, x: str) -> str:
    """Returns bool [seq, batch, 1]: whether a position lies within its sentence."""
    seq = builder.op("Squeeze", builder.op("Shape", x, start=0, end=1))
    positions = builder.op("Range", builder.constant(0), seq, builder.constant(1))  # [seq]
    column = builder.op("Unsqueeze", positions, builder.constant([1, 2]))  # [seq, 1, 1]
    lengths = builder.op("Unsqueeze", builder.op("Cast", "lengths", to=INT64), builder.constant([1]))  # [batch, 1]
    return builder.op("Less", column, lengths)


def _project(builder: GraphBuilder, weights: Weights, shape: LstmShape, pooled: str) -> str:
    matrix = tensor(weights, "projection.weight", (None, shape.output_size))
    return builder.linear("projection", matrix, tensor(weights, "projection.bias", (matrix.shape[0],)), pooled)


def _normalize(builder: GraphBuilder, embeddings: str) -> str:
    norm = builder.op("ReduceL2", embeddings, axes=[1], keepdims=1)
    return builder.op("Div", embeddings, builder.op("Max", norm, builder.constant(NORM_EPSILON, np.float32)))
