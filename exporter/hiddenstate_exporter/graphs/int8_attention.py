"""Self-attentive pooling with int8 products (`pooling.AttentionPooling`).

The softmax and the weighted sums go over positions, whose number is that of the batch's longest sentence. They are
sums along the first axis, which ONNX Runtime adds up one position after the other, so that the zeros of padding do not
change a bit; its Softmax and MatMul add in an order that depends on how many there are.
"""

import numpy as np

from hiddenstate_exporter.graphs.graph_builder import GraphBuilder
from hiddenstate_exporter.graphs.int8_stack import StackOutputs
from hiddenstate_exporter.graphs.pooling_graph import valid_positions
from hiddenstate_exporter.graphs.quantizer import Quantizer
from hiddenstate_exporter.graphs.weights import Weights, tensor


def int8_attention(quantizer: Quantizer, weights: Weights, made: StackOutputs, width: int) -> tuple[str, int]:
    """Pools the outputs of a stack; returns the heads' weighted means side by side [batch, pooled], and that width."""
    builder = quantizer.builder
    w1 = tensor(weights, "pooling.w1.weight", (None, width))  # [attention_size, width]
    w2 = tensor(weights, "pooling.w2.weight", (None, len(w1)))  # [heads, attention_size]
    hidden = builder.op("Tanh", quantizer.product("pooling.w1", w1, quantizer.quantize(made.outputs, made.bound)))
    scores = quantizer.product("pooling.w2", w2, quantizer.quantize(hidden, 1.0))  # [seq, batch, heads]
    shares = _softmax_over_positions(builder, scores, valid_positions(builder, scores))
    weighted = builder.op(
        "Mul",
        builder.op("Unsqueeze", shares, builder.constant([3])),  # [seq, batch, heads, 1]
        builder.op("Unsqueeze", made.outputs, builder.constant([2])),  # [seq, batch, 1, width]
    )
    sums = builder.op("ReduceSum", weighted, builder.constant([0]), keepdims=0)  # [batch, heads, width]
    return builder.op("Reshape", sums, builder.constant([0, len(w2) * width])), len(w2) * width


def _softmax_over_positions(builder: GraphBuilder, scores: str, valid: str) -> str:
    """Returns shares [seq, batch, heads] that sum to 1 over the valid positions, and are 0 at the others."""
    masked = builder.op("Where", valid, scores, builder.constant(-np.inf, np.float32))
    largest = builder.op("ReduceMax", masked, axes=[0], keepdims=1)
    exponents = builder.op("Exp", builder.op("Sub", masked, largest))
    return builder.op("Div", exponents, builder.op("ReduceSum", exponents, builder.constant([0]), keepdims=1))
