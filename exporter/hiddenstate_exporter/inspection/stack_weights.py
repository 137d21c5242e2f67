"""Reads the recurrent layers of a bundle back out of its graph."""

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.cell_graph import OPERATORS
from hiddenstate_exporter.graphs.stack_shape import Cell, StackShape
from hiddenstate_server.bundle import Bundle

_GRAPH: Final = {"language_model": "recurrent", "sentence_encoder": "encoder"}


class InspectionError(ValueError):
    """A bundle cannot be looked into; the message says why."""


def read_stack(folder: Path, bundle: Bundle) -> tuple[StackShape, dict[str, NDArray[np.float32]]]:
    """Returns the shape of a bundle's layers and their tensors, named as in `stack_shape`, with `embedding.weight`.

    Raises:
        InspectionError: it has no recurrent layers.
    """
    architecture = bundle.architecture
    if architecture.cell == "transformer":
        raise InspectionError(f"{folder}: a transformer has no gates; give a recurrent model")
    shape = StackShape(
        cell=architecture.cell,
        connections=architecture.connections,
        input_size=architecture.embedding_size,
        hidden_size=architecture.hidden_size,
        num_layers=architecture.num_layers,
        bidirectional=architecture.bidirectional,
    )
    graph = onnx.load(folder / bundle.variants["fp32"].graphs[_GRAPH[bundle.kind]]).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float32) for tensor in graph.initializer}
    weights = {"embedding.weight": stored["embedding.weight"]}
    for layer in range(shape.num_layers):
        weights |= _layer(stored, shape, layer)
    return shape, weights


def _layer(stored: dict[str, NDArray[np.float32]], shape: StackShape, layer: int) -> dict[str, NDArray[np.float32]]:
    w, r, b = (stored[f"rnn.l{layer}.{part}"] for part in "WRB")  # each [directions, ...]
    weights = {}
    for direction, suffix in enumerate(shape.suffixes(layer)):
        weights[f"rnn.weight_ih_{suffix}"] = _in_torch_order(w[direction], shape.cell)
        weights[f"rnn.weight_hh_{suffix}"] = _in_torch_order(r[direction], shape.cell)
        for part, bias in zip(("ih", "hh"), np.split(b[direction], 2), strict=True):
            weights[f"rnn.bias_{part}_{suffix}"] = _in_torch_order(bias, shape.cell)
    if shape.has_gate(layer):
        name = f"rnn.highway_l{layer}"
        weights |= {f"{name}.weight": stored[f"{name}.weight"].T, f"{name}.bias": stored[f"{name}.bias"]}
    return weights


def _in_torch_order(array: NDArray[np.float32], cell: Cell) -> NDArray[np.float32]:
    """Undoes `CellOperator.reorder`."""
    operator = OPERATORS[cell]
    blocks = np.split(array, len(operator.onnx_gates))
    return np.concatenate([blocks[operator.onnx_gates.index(gate)] for gate in operator.torch_gates])
