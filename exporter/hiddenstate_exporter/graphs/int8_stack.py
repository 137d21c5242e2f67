"""A stack of recurrent layers whose products are int8; `stack_shape` says what stands between the layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hiddenstate_exporter.graphs.cell_graph import OPERATORS
from hiddenstate_exporter.graphs.int8_embedding import EmbeddingGates, backwards
from hiddenstate_exporter.graphs.int8_layer import int8_layer
from hiddenstate_exporter.graphs.quantizer import Quantized, Quantizer
from hiddenstate_exporter.graphs.stack_graph import concat
from hiddenstate_exporter.graphs.stack_shape import H_BOUND, StackShape
from hiddenstate_exporter.graphs.weights import Weights, tensor


@dataclass(frozen=True, slots=True)
class StackOutputs:
    """What a stack gives for each token."""

    outputs: str  # float32 [seq, batch, output_size]
    bound: float  # of the outputs
    states: list[list[str]]  # of each layer the parts of its state, each [seq, batch, hidden_size]; directions joined


class Int8Stack:
    """Adds the layers of a stack to a graph, which reads `tokens` [batch, seq] and `lengths` [batch]."""

    def __init__(self, quantizer: Quantizer, weights: Weights, shape: StackShape, *, fold_limit: int) -> None:
        self._quantizer = quantizer
        self._builder = quantizer.builder
        self._weights = weights
        self._shape = shape
        self._embedding = EmbeddingGates(quantizer, weights, shape, fold_limit=fold_limit)

    def build(self, initial: Sequence[Sequence[str]], *, collected: int) -> StackOutputs:
        """Adds all layers.

        Args:
            initial: For each layer the parts of its state before the first token, each [batch, hidden_size].
            collected: How many parts of the state to return for each token.
        """
        y, states = self._layer(0, None, initial[0], collected)
        x, bound, ys, all_states = y, H_BOUND, [y], [states]
        for layer in range(1, self._shape.num_layers):
            rows = self._quantizer.quantize(x, bound)
            y, states = self._layer(layer, rows, initial[layer], collected)
            ys.append(y)
            all_states.append(states)
            x, bound = self._connect(layer, x, rows, ys)
        return StackOutputs(x, bound, all_states)

    def _layer(
        self, layer: int, rows: Quantized | None, initial: Sequence[str], collected: int
    ) -> tuple[str, list[str]]:
        """Adds a layer; returns its outputs [seq, batch, layer_output_size] and the state after each token."""
        directions = []
        for direction, suffix in enumerate(self._shape.suffixes(layer)):
            x = self._gates(layer, direction, rows)
            kept = int8_layer(self._quantizer, self._weights, self._shape, suffix, x, initial, collected=collected)
            directions.append([backwards(self._builder, part) for part in kept] if direction else kept)
        parts = [concat(self._builder, part) for part in zip(*directions, strict=True)]
        return parts[0], parts

    def _gates(self, layer: int, direction: int, rows: Quantized | None) -> str:
        """Returns what the layer's input gives to its gates: float32 [seq, batch, gates * hidden_size]."""
        if rows is None:
            return self._embedding.of(layer, direction)
        if direction:
            rows = Quantized(backwards(self._builder, rows.value), rows.bound)
        suffix, reorder = self._shape.suffixes(layer)[direction], OPERATORS[self._shape.cell].reorder
        matrix = reorder(self._weights[f"rnn.weight_ih_{suffix}"])  # [gates * hidden_size, layer_input_size]
        if self._shape.connections != "dense":
            return self._quantizer.product(
                f"rnn.{suffix}.W", matrix, rows, reorder(self._weights[f"rnn.bias_ih_{suffix}"])
            )
        below = self._quantizer.product(f"rnn.{suffix}.W", matrix[:, self._shape.input_size :], rows)
        return self._builder.op("Add", self._embedding.of(layer, direction), below)

    def _connect(self, layer: int, x: str, rows: Quantized, ys: Sequence[str]) -> tuple[str, float]:
        """Returns what the layer above reads, of a dense stack without the embedding, and its bound."""
        builder, y = self._builder, ys[-1]
        match self._shape.connections:
            case "dense":
                return concat(builder, ys), H_BOUND
            case "residual":
                return builder.op("Add", y, x), rows.bound + H_BOUND
            case "highway":
                gate = self._highway_gate(layer, rows)
                kept = builder.op("Sub", builder.constant(1.0, np.float32), gate)
                carried = builder.op("Add", builder.op("Mul", gate, y), builder.op("Mul", kept, x))
                return carried, max(rows.bound, H_BOUND)  # it lies between x and y
            case _:
                return y, H_BOUND

    def _highway_gate(self, layer: int, rows: Quantized) -> str:
        name, width = f"rnn.highway_l{layer}", self._shape.layer_input_size(layer)
        matrix = tensor(self._weights, f"{name}.weight", (width, width))
        bias = tensor(self._weights, f"{name}.bias", (width,))
        return self._builder.op("Sigmoid", self._quantizer.product(name, matrix, rows, bias))
