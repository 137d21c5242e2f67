"""What follows a transformer as ONNX nodes: pooling over a sentence's tokens, linear layers, activations."""

import math

import numpy as np

from hiddenstate_exporter.foreign.transformer_modules import Activation, Dense, TransformerPooling
from hiddenstate_exporter.graphs.graph_builder import FLOAT, INT64, GraphBuilder
from hiddenstate_exporter.graphs.weights import Weights


def valid_positions(builder: GraphBuilder) -> str:
    """Returns bool [batch, seq]: whether a position lies within its sentence."""
    seq = builder.op("Squeeze", builder.op("Shape", "tokens", start=1, end=2))
    positions = builder.op("Range", builder.constant(0), seq, builder.constant(1))  # [seq]
    return builder.op("Less", positions, _column(builder, builder.op("Cast", "lengths", to=INT64)))


def pool(builder: GraphBuilder, x: str, valid: str, pooling: TransformerPooling) -> str:
    """Pools outputs `x` float32 [batch, seq, hidden_size] over `valid` bool [batch, seq]: [batch, hidden_size]."""
    if pooling == "cls":
        return builder.op("Gather", x, builder.constant(0), axis=1)
    if pooling == "last":
        lengths = builder.op("Cast", "lengths", to=INT64)
        backwards = builder.op("ReverseSequence", x, lengths, time_axis=1, batch_axis=0)
        return builder.op("Gather", backwards, builder.constant(0), axis=1)
    kept = builder.op("Unsqueeze", valid, builder.constant([2]))  # [batch, seq, 1]
    if pooling == "max":
        masked = builder.op("Where", kept, x, builder.constant(-np.inf, np.float32))
        return builder.op("ReduceMax", masked, axes=[1], keepdims=0)
    masked = builder.op("Where", kept, x, builder.constant(0.0, np.float32))
    total = builder.op("ReduceSum", masked, builder.constant([1]), keepdims=0)
    return builder.op("Div", total, builder.op("Cast", _column(builder, "lengths"), to=FLOAT))


def dense(builder: GraphBuilder, weights: Weights, module: Dense, x: str) -> str:
    """Adds a linear layer and its activation: [batch, in_features] to [batch, out_features]."""
    name = f"{module.path}.linear"
    bias = weights[f"{name}.bias"] if module.bias else np.zeros(module.out_features, np.float32)
    return activate(builder, module.activation, builder.linear(name, weights[f"{name}.weight"], bias, x))


def activate(builder: GraphBuilder, activation: Activation, x: str) -> str:
    """Adds an activation."""
    if activation == "identity":
        return x
    if activation != "gelu":
        return builder.op({"tanh": "Tanh", "relu": "Relu"}[activation], x)
    # Hendrycks & Gimpel, "Gaussian Error Linear Units" (2016): x/2 (1 + erf(x / sqrt 2)); ONNX has it since opset 20
    erf = builder.op("Erf", builder.op("Div", x, builder.constant(math.sqrt(2), np.float32)))
    doubled = builder.op("Mul", x, builder.op("Add", erf, builder.constant(1.0, np.float32)))
    return builder.op("Mul", doubled, builder.constant(0.5, np.float32))


def _column(builder: GraphBuilder, lengths: str) -> str:
    return builder.op("Unsqueeze", lengths, builder.constant([1]))  # [batch, 1]
