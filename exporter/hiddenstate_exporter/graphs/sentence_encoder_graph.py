"""The graph of a sentence encoder: tokens to one vector for each sentence."""

import numpy as np
import onnx

from hiddenstate_exporter.graphs.graph_builder import FLOAT, INT32, INT64, GraphBuilder, array_info
from hiddenstate_exporter.graphs.pooling_graph import Pooling, pool
from hiddenstate_exporter.graphs.stack_graph import embed, stack
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.weights import Weights, tensor

NORM_EPSILON = 1e-12  # as torch.nn.functional.normalize


def encoder_graph(
    builder: GraphBuilder, weights: Weights, shape: StackShape, *, pooling: Pooling, normalized: bool
) -> onnx.ModelProto:
    """Builds the graph `encoder`."""
    outputs, _ = stack(builder, weights, shape, embed(builder, weights, shape.input_size))
    embeddings, dimension = pool(builder, weights, shape, outputs, pooling)
    if "projection.weight" in weights:
        matrix = tensor(weights, "projection.weight", (None, dimension))
        dimension = matrix.shape[0]
        bias = tensor(weights, "projection.bias", (dimension,))
        rows = builder.to_computing(embeddings)
        embeddings = builder.to_float32(builder.linear("projection", matrix, bias, rows))
    builder.name_output(normalize(builder, embeddings) if normalized else embeddings, "embeddings")
    return encoder_model(builder, dimension)


def encoder_model(builder: GraphBuilder, dimension: int) -> onnx.ModelProto:
    """Finishes a graph `encoder` that has its output."""
    return builder.model(
        inputs=[array_info("tokens", INT64, ["batch", "seq"]), array_info("lengths", INT32, ["batch"])],
        outputs=[array_info("embeddings", FLOAT, ["batch", dimension])],
    )


def normalize(builder: GraphBuilder, embeddings: str) -> str:
    """Gives rows [batch, dimension] the length 1."""
    norm = builder.op("ReduceL2", embeddings, axes=[1], keepdims=1)
    return builder.op("Div", embeddings, builder.op("Max", norm, builder.constant(NORM_EPSILON, np.float32)))
