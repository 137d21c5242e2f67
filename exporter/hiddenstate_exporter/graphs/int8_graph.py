"""Writes the int8 graphs of a bundle beside its float32 ones, without PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.graph import write_models
from hiddenstate_exporter.graphs.graph_builder import GraphBuilder
from hiddenstate_exporter.graphs.int8_embedding import FOLD_LIMIT
from hiddenstate_exporter.graphs.int8_language_model_graph import int8_head_graph, int8_recurrent_graph
from hiddenstate_exporter.graphs.int8_sentence_encoder_graph import int8_encoder_graph
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.quantization import WEIGHT_BITS
from hiddenstate_exporter.graphs.quantizer import Quantizer
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections, read_stack_shape
from hiddenstate_exporter.graphs.state_bounds import state_bounds
from hiddenstate_exporter.graphs.variant_graphs import VariantGraphs
from hiddenstate_exporter.graphs.weights import StoredDtype, Weights, WeightsFile, round_weights

INT8_WEIGHTS_FILE: Final = "weights.int8.bin"
_SUFFIX: Final = ".int8"


def write_int8_language_model_graphs(
    folder: Path,
    weights: Weights,
    token_ranks: NDArray[np.int64],
    *,
    beside: Mapping[str, str],
    cell: Cell = "lstm",
    connections: Connections = "none",
    dtype: StoredDtype = "float16",
    fold_limit: int = FOLD_LIMIT,
) -> VariantGraphs:
    """Writes `recurrent.int8.onnx`, `head.int8.onnx` and what they need beyond the float32 graphs' weights.

    Args:
        folder: The folder that the float32 graphs lie in.
        weights: The model's weights.
        token_ranks: As for `graph.write_language_model_graphs`.
        beside: The float32 graphs, whose weights are shared; graph to file.
        cell: Kind of recurrent layer.
        connections: What stands between the layers.
        dtype: What the weights that are not int8 are stored in.
        fold_limit: Bytes of memory that the embedding may take once it is multiplied with the input weights; above it
            those are multiplied for each token.

    Raises:
        WeightsError: a tensor is missing, has a wrong shape, does not belong there or cannot be stored.
        OSError: a file cannot be written.
    """
    weights, file = round_weights(weights, dtype), _weights_file(folder, beside)
    shape = read_stack_shape(weights, cell, connections)
    recurrent = Quantizer(GraphBuilder("recurrent", file, dtype))
    head = Quantizer(GraphBuilder("head", file, dtype))
    recurrent_model, output_bound = int8_recurrent_graph(recurrent, weights, shape, fold_limit=fold_limit)
    head_model = int8_head_graph(head, weights, token_ranks, shape, output_bound)
    return VariantGraphs(
        graphs=write_models(folder, {"recurrent": recurrent_model, "head": head_model}, file, suffix=_SUFFIX),
        activation_bounds=recurrent.bounds | head.bounds,
        state_bounds=state_bounds(shape, output_bound),
        weight_bits=WEIGHT_BITS,
    )


def write_int8_sentence_encoder_graphs(
    folder: Path,
    weights: Weights,
    *,
    pooling: Pooling,
    normalized: bool,
    beside: Mapping[str, str],
    cell: Cell = "lstm",
    connections: Connections = "none",
    dtype: StoredDtype = "float16",
    fold_limit: int = FOLD_LIMIT,
) -> VariantGraphs:
    """Writes `encoder.int8.onnx` and its weights; otherwise like `write_int8_language_model_graphs`."""
    weights, file = round_weights(weights, dtype), _weights_file(folder, beside)
    shape = read_stack_shape(weights, cell, connections)
    encoder = Quantizer(GraphBuilder("encoder", file, dtype))
    model = int8_encoder_graph(encoder, weights, shape, pooling=pooling, normalized=normalized, fold_limit=fold_limit)
    return VariantGraphs(
        graphs=write_models(folder, {"encoder": model}, file, suffix=_SUFFIX),
        activation_bounds=encoder.bounds,
        weight_bits=WEIGHT_BITS,
    )


def _weights_file(folder: Path, beside: Mapping[str, str]) -> WeightsFile:
    return WeightsFile(INT8_WEIGHTS_FILE, WeightsFile.read(folder, beside.values()))
