"""The two graphs of a language model with int8 products; they take and give what the float32 ones do."""

import numpy as np
import onnx
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.graph_builder import INT64, GraphBuilder
from hiddenstate_exporter.graphs.int8_head import int8_log_probs
from hiddenstate_exporter.graphs.int8_stack import Int8Stack
from hiddenstate_exporter.graphs.language_model_graph import head_model, recurrent_model, split_state
from hiddenstate_exporter.graphs.quantizer import Quantizer
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.weights import Weights


def int8_recurrent_graph(
    quantizer: Quantizer, weights: Weights, shape: StackShape, *, fold_limit: int
) -> tuple[onnx.ModelProto, float]:
    """Builds the graph `recurrent`, and returns it with the bound of its outputs."""
    builder = quantizer.builder
    stack = Int8Stack(quantizer, weights, shape, fold_limit=fold_limit)
    made = stack.build(split_state(builder, shape, "state"), collected=len(shape.state_parts))
    last = _LastToken(builder)
    parts = [last.of(part) for layer in made.states for part in layer]
    if shape.keeps_output:
        parts.append(last.of(made.outputs))
    builder.name_output(builder.op("Transpose", made.outputs, perm=[1, 0, 2]), "outputs")
    builder.name_output(builder.op("Concat", *parts, axis=1), "next_state")
    return recurrent_model(builder, shape), made.bound


def int8_head_graph(
    quantizer: Quantizer, weights: Weights, token_ranks: NDArray[np.int64], shape: StackShape, bound: float
) -> onnx.ModelProto:
    """Builds the graph `head`, whose `hidden` keeps within `bound`."""
    builder = quantizer.builder
    log_probs = int8_log_probs(quantizer, weights, shape.output_size, bound)
    return head_model(builder, weights, token_ranks, shape.output_size, log_probs)


class _LastToken:
    """Picks what stands at each context's last token."""

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder
        lengths = builder.op("Cast", "lengths", to=INT64)  # [batch]
        last = builder.op("Sub", lengths, builder.constant([1]))
        batch_size = builder.op("Squeeze", builder.op("Shape", lengths))
        rows = builder.op("Range", builder.constant(0), batch_size, builder.constant(1))  # [batch]
        columns = [builder.op("Unsqueeze", index, builder.constant([1])) for index in (last, rows)]
        self._indices = builder.op("Concat", *columns, axis=1)  # [batch, 2]

    def of(self, value: str) -> str:
        """Returns [batch, width] of a value [seq, batch, width]."""
        return self._builder.op("GatherND", value, self._indices)
