"""Writes the ONNX graphs of a bundle and their weights, without PyTorch.

`hiddenstate_server.bundle` says what each graph takes and gives. Weights are plain arrays named as in the PyTorch
state_dict of `language_model.LanguageModel` and `sentence_encoder.SentenceEncoder`, those below `rnn.` as `stack_shape`
says:

    language_model     embedding.weight, rnn.*, projection.* (if it has one), decoder.*
    sentence_encoder   embedding.weight, rnn.*, pooling.* (if it pools by attention), projection.* (if it has one)
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.graph_builder import GraphBuilder
from hiddenstate_exporter.graphs.language_model_graph import head_graph, recurrent_graph
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.sentence_encoder_graph import encoder_graph
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections, read_stack_shape
from hiddenstate_exporter.graphs.weights import StoredDtype, Weights, WeightsFile, round_weights


def write_language_model_graphs(
    folder: Path,
    weights: Weights,
    token_ranks: NDArray[np.int64],
    *,
    cell: Cell = "lstm",
    connections: Connections = "none",
    dtype: StoredDtype = "float16",
) -> dict[str, str]:
    """Writes `recurrent.onnx`, `head.onnx` and `weights.bin` into a folder.

    Args:
        folder: An existing folder.
        weights: The model's weights.
        token_ranks: [vocab_size], each token's place among the candidate words (`tokenizer.word_ranks`); negative
            for tokens that are never candidates.
        cell: Kind of recurrent layer.
        connections: What stands between the layers.
        dtype: What weights are stored in; the graphs compute in float32.

    Returns:
        The files' names by graph, as `bundle.Variant` has them.

    Raises:
        WeightsError: a tensor is missing, has a wrong shape, does not belong there or cannot be stored.
        OSError: a file cannot be written.
    """
    weights, file = round_weights(weights, dtype), WeightsFile()
    shape = read_stack_shape(weights, cell, connections)
    models = {
        "recurrent": recurrent_graph(GraphBuilder("recurrent", file, dtype), weights, shape),
        "head": head_graph(GraphBuilder("head", file, dtype), weights, token_ranks, shape.output_size),
    }
    return write_models(folder, models, file)


def write_sentence_encoder_graphs(
    folder: Path,
    weights: Weights,
    *,
    pooling: Pooling,
    normalized: bool,
    cell: Cell = "lstm",
    connections: Connections = "none",
    dtype: StoredDtype = "float16",
) -> dict[str, str]:
    """Writes `encoder.onnx` and `weights.bin` into a folder; otherwise like `write_language_model_graphs`."""
    weights, file = round_weights(weights, dtype), WeightsFile()
    shape = read_stack_shape(weights, cell, connections)
    builder = GraphBuilder("encoder", file, dtype)
    model = encoder_graph(builder, weights, shape, pooling=pooling, normalized=normalized)
    return write_models(folder, {"encoder": model}, file)


def write_models(
    folder: Path, models: Mapping[str, onnx.ModelProto], weights: WeightsFile, *, suffix: str = ""
) -> dict[str, str]:
    """Writes graphs and the file of their weights into a folder, and returns the graphs' files by name.

    `suffix` tells the files of a variant from those of the others.
    """
    weights.write(folder)
    files = {name: f"{name}{suffix}.onnx" for name in models}
    for name, model in models.items():
        path = folder / files[name]
        path.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(path), full_check=True)
    return files
