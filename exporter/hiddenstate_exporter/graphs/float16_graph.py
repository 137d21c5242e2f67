"""Writes the float16 graphs of a bundle beside its float32 ones, without PyTorch.

Weights are float16; layers and linear products read and give float16. What loses by it is float32: softmaxes, sums over
positions, norms, and everything that a graph takes and gives. All standard ONNX operators, with weights as initializers
and without attributes that would keep ONNX Runtime from giving a layer to cuDNN.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.graph import write_models
from hiddenstate_exporter.graphs.graph_builder import GraphBuilder
from hiddenstate_exporter.graphs.language_model_graph import head_graph, recurrent_graph
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.sentence_encoder_graph import encoder_graph
from hiddenstate_exporter.graphs.stack_shape import H_BOUND, Cell, Connections, StackShape, read_stack_shape
from hiddenstate_exporter.graphs.state_bounds import state_bounds
from hiddenstate_exporter.graphs.variant_graphs import VariantGraphs
from hiddenstate_exporter.graphs.weights import Weights, WeightsError, WeightsFile, round_weights

FLOAT16_WEIGHTS_FILE: Final = "weights.fp16.bin"
FLOAT16_MAX: Final = float(np.finfo(np.float16).max)
_SUFFIX: Final = ".fp16"


def write_float16_language_model_graphs(
    folder: Path,
    weights: Weights,
    token_ranks: NDArray[np.int64],
    *,
    beside: Mapping[str, str],
    cell: Cell = "lstm",
    connections: Connections = "none",
) -> VariantGraphs:
    """Writes `recurrent.fp16.onnx` and `head.fp16.onnx`, and `weights.fp16.bin` where the float32 graphs have others.

    Args:
        folder: The folder that the float32 graphs lie in.
        weights: The model's weights.
        token_ranks: As for `graph.write_language_model_graphs`.
        beside: The float32 graphs, whose weights are shared if they are stored as float16; graph to file.
        cell: Kind of recurrent layer.
        connections: What stands between the layers.

    Raises:
        WeightsError: a tensor is missing, has a wrong shape, does not belong there, or float16 cannot hold it or what
            it makes of a layer's input.
        OSError: a file cannot be written.
    """
    weights, shape, file = _prepare(folder, weights, beside, cell, connections)
    models = {
        "recurrent": recurrent_graph(_builder("recurrent", file), weights, shape),
        "head": head_graph(_builder("head", file), weights, token_ranks, shape.output_size),
    }
    return VariantGraphs(
        graphs=write_models(folder, models, file, suffix=_SUFFIX),
        state_bounds=state_bounds(shape, shape.output_bound, c_bound=FLOAT16_MAX),
    )


def write_float16_sentence_encoder_graphs(
    folder: Path,
    weights: Weights,
    *,
    pooling: Pooling,
    normalized: bool,
    beside: Mapping[str, str],
    cell: Cell = "lstm",
    connections: Connections = "none",
) -> VariantGraphs:
    """Writes `encoder.fp16.onnx` and its weights; otherwise like `write_float16_language_model_graphs`."""
    weights, shape, file = _prepare(folder, weights, beside, cell, connections)
    model = encoder_graph(_builder("encoder", file), weights, shape, pooling=pooling, normalized=normalized)
    return VariantGraphs(graphs=write_models(folder, {"encoder": model}, file, suffix=_SUFFIX))


def _prepare(
    folder: Path, weights: Weights, beside: Mapping[str, str], cell: Cell, connections: Connections
) -> tuple[Weights, StackShape, WeightsFile]:
    rounded = round_weights(weights, "float16")
    shape = read_stack_shape(rounded, cell, connections)
    _check_gates(rounded, shape)
    return rounded, shape, WeightsFile(FLOAT16_WEIGHTS_FILE, WeightsFile.read(folder, beside.values()))


def _builder(name: str, file: WeightsFile) -> GraphBuilder:
    return GraphBuilder(name, file, "float16", computes_in="float16")


def _check_gates(weights: Weights, shape: StackShape) -> None:
    """Refuses layers whose gates might leave float16 before their sigmoid or tanh, which no output would show."""
    table = np.abs(weights["embedding.weight"]).max(axis=0, initial=0)  # [input_size]
    for layer in range(shape.num_layers):
        above = shape.layer_input_size(layer) - shape.input_size  # of a dense stack's layer
        x = np.full(shape.layer_input_size(layer), shape.output_bound)
        if layer == 0 or shape.connections == "dense":
            x = np.concatenate([table, np.full(above, H_BOUND)])
        for suffix in shape.suffixes(layer):
            gates = np.abs(weights[f"rnn.weight_ih_{suffix}"]) @ x
            gates += H_BOUND * np.abs(weights[f"rnn.weight_hh_{suffix}"]).sum(axis=1)
            gates += sum(np.abs(weights[f"rnn.bias_{part}_{suffix}"]) for part in ("ih", "hh"))  # [gates * hidden_size]
            if gates.max() > FLOAT16_MAX:
                raise WeightsError(
                    f"tensor 'rnn.weight_ih_{suffix}' and those of its layer can carry a gate to {gates.max():.4g}, "
                    f"float16 holds up to {FLOAT16_MAX:,.0f}"
                )
