"""The graph of a sentence encoder with int8 products; it takes and gives what the float32 one does."""

import onnx

from hiddenstate_exporter.graphs.graph_builder import GraphBuilder
from hiddenstate_exporter.graphs.int8_attention import int8_attention
from hiddenstate_exporter.graphs.int8_stack import Int8Stack, StackOutputs
from hiddenstate_exporter.graphs.pooling_graph import Pooling, pool
from hiddenstate_exporter.graphs.quantizer import Quantizer
from hiddenstate_exporter.graphs.sentence_encoder_graph import encoder_model, normalize
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.weights import Weights, tensor


def int8_encoder_graph(
    quantizer: Quantizer,
    weights: Weights,
    shape: StackShape,
    *,
    pooling: Pooling,
    normalized: bool,
    fold_limit: int,
) -> onnx.ModelProto:
    """Builds the graph `encoder`."""
    builder = quantizer.builder
    stack = Int8Stack(quantizer, weights, shape, fold_limit=fold_limit)
    zeros = [_zeros(builder, shape.hidden_size)] * len(shape.state_parts)
    made = stack.build([zeros] * shape.num_layers, collected=1)
    embeddings, dimension = _pool(quantizer, weights, shape, made, pooling)
    if "projection.weight" in weights:
        matrix = tensor(weights, "projection.weight", (None, dimension))
        dimension = len(matrix)
        # Each kind of pooling picks or averages: what it gives keeps within the bound of what it reads.
        rows = quantizer.quantize(embeddings, made.bound)
        embeddings = quantizer.product("projection", matrix, rows, tensor(weights, "projection.bias", (dimension,)))
    builder.name_output(normalize(builder, embeddings) if normalized else embeddings, "embeddings")
    return encoder_model(builder, dimension)


def _pool(
    quantizer: Quantizer, weights: Weights, shape: StackShape, made: StackOutputs, pooling: Pooling
) -> tuple[str, int]:
    if pooling == "attention":
        return int8_attention(quantizer, weights, made, shape.output_size)
    return pool(quantizer.builder, weights, shape, made.outputs, pooling)


def _zeros(builder: GraphBuilder, width: int) -> str:
    """Returns zeros, float32 [batch, width]."""
    batch_size = builder.op("Shape", "tokens", start=0, end=1)
    return builder.op("ConstantOfShape", builder.op("Concat", batch_size, builder.constant([width]), axis=0))
