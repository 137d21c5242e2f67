"""What the embedding of each token gives to the gates of the layers that read it, in int8 graphs.

Folded, the product of the whole embedding table with the input weights is the table that tokens are looked up in, and
no product is left to compute. ONNX Runtime multiplies it out when it loads the graph, so that it takes memory but no
disk. Where that table would be too large, the rows of the embedding are quantised and multiplied.
"""

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.cell_graph import OPERATORS
from hiddenstate_exporter.graphs.graph_builder import FLOAT, FLOAT16, INT64, GraphBuilder
from hiddenstate_exporter.graphs.quantizer import Quantized, Quantizer
from hiddenstate_exporter.graphs.stack_shape import GATES, StackShape
from hiddenstate_exporter.graphs.weights import Weights, tensor

MIB = 1024 * 1024
FOLD_LIMIT = 256 * MIB  # bytes of folded tables that a model may take by default


class EmbeddingGates:
    """Looks up `tokens` [batch, seq] for the gates of each layer."""

    def __init__(self, quantizer: Quantizer, weights: Weights, shape: StackShape, *, fold_limit: int) -> None:
        self._quantizer = quantizer
        self._builder = quantizer.builder
        self._weights = weights
        self._shape = shape
        self._table = tensor(weights, "embedding.weight", (None, shape.input_size))
        self._folded = folded_bytes(shape, len(self._table)) <= fold_limit
        self._tokens = self._builder.op("Transpose", "tokens", perm=[1, 0])  # [seq, batch]
        self._rows: Quantized | None = None

    def of(self, layer: int, direction: int) -> str:
        """Returns what the embedding and the input's bias give, float32 [seq, batch, gates * hidden_size].

        The second direction gets each row's tokens from the last to the first.
        """
        return self._look_up(layer, direction) if self._folded else self._multiply(layer, direction)

    def _look_up(self, layer: int, direction: int) -> str:
        builder, suffix = self._builder, self._shape.suffixes(layer)[direction]
        embedding = builder.weight("embedding.weight", self._table)  # [vocab_size, input_size]
        matrix = self._input_weights(layer, direction)  # [gates * hidden_size, input_size]
        bias = builder.stored_exactly(f"rnn.{suffix}.input.bias", self._bias(suffix))
        table = builder.op("Gemm", embedding, matrix, bias, transB=1)
        halved = builder.op("Cast", table, to=FLOAT16)  # reading it takes longer than widening it
        tokens = backwards(builder, self._tokens) if direction else self._tokens
        return builder.op("Cast", builder.op("Gather", halved, tokens, axis=0), to=FLOAT)

    def _input_weights(self, layer: int, direction: int) -> str:
        """Takes the weights that float32 graphs have, so that they are stored once."""
        builder, suffixes = self._builder, self._shape.suffixes(layer)
        both = np.stack([self._matrix(suffix) for suffix in suffixes])  # [directions, gates * hidden_size, width]
        matrix = builder.op("Gather", builder.weight(f"rnn.l{layer}.W", both), builder.constant(direction), axis=0)
        if both.shape[2] == self._shape.input_size:
            return matrix
        ends = builder.constant([0]), builder.constant([self._shape.input_size]), builder.constant([1])
        return builder.op("Slice", matrix, *ends)

    def _multiply(self, layer: int, direction: int) -> str:
        builder, suffix = self._builder, self._shape.suffixes(layer)[direction]
        if self._rows is None:
            embedding = builder.stored("embedding.weight", self._table)
            found = builder.widen(builder.op("Gather", embedding, self._tokens, axis=0))
            self._rows = self._quantizer.quantize(found, float(np.abs(self._table).max()))
        rows = Quantized(backwards(builder, self._rows.value), self._rows.bound) if direction else self._rows
        matrix = self._matrix(suffix)[:, : self._shape.input_size]
        return self._quantizer.product(f"rnn.{suffix}.embedding", matrix, rows, self._bias(suffix))

    def _matrix(self, suffix: str) -> NDArray[np.float32]:
        return OPERATORS[self._shape.cell].reorder(self._weights[f"rnn.weight_ih_{suffix}"])

    def _bias(self, suffix: str) -> NDArray[np.float32]:
        return OPERATORS[self._shape.cell].reorder(self._weights[f"rnn.bias_ih_{suffix}"])


def folded_bytes(shape: StackShape, vocab_size: int) -> int:
    """Returns how much memory the folded tables of a stack take."""
    readers = shape.num_layers if shape.connections == "dense" else 1
    row = GATES[shape.cell] * shape.hidden_size * np.dtype(np.float16).itemsize
    return readers * shape.num_directions * vocab_size * row


def backwards(builder: GraphBuilder, value: str) -> str:
    """Turns each row of a value [seq, batch, ...] round, up to its length; the second time turns it back."""
    lengths = builder.op("Cast", "lengths", to=INT64)
    return builder.op("ReverseSequence", value, lengths, time_axis=0, batch_axis=1)
