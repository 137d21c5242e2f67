"""What the gates of a recurrent model do over the words of a sentence.

LSTM (Hochreiter & Schmidhuber, 1997; Gers, Schmidhuber & Cummins, 2000): forget keeps a component of the cell state,
input lets a new value in, output shows it. GRU (Cho et al., 2014): update keeps a component of the state, reset hides
the state from the new value.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.stack_shape import Cell, StackShape
from hiddenstate_exporter.inspection.stack_weights import InspectionError, read_stack
from hiddenstate_server.bundle import TOKENIZER_FILE, load_bundle
from hiddenstate_server.tokenizer import Tokenizer

Array = NDArray[np.float32]

GATES: Final[Mapping[Cell, tuple[str, ...]]] = {"lstm": ("forget", "input", "output"), "gru": ("reset", "update")}


@dataclass(frozen=True, slots=True)
class LayerGates:
    """The gates of one layer, or of one direction of it, 0 to 1."""

    name: str  # "layer 1", "layer 1 backwards"
    gates: Mapping[str, Array]  # by gate, [words, hidden_size]
    outputs: Array  # what it gives, [words, hidden_size]


@dataclass(frozen=True, slots=True)
class SentenceGates:
    """The gates of all layers over a sentence."""

    model: str
    cell: Cell
    words: list[str]
    layers: list[LayerGates]
    outputs: Array  # of the stack, [words, output_size]


def gates_of_bundle(folder: Path, sentence: str) -> SentenceGates:
    """Runs a bundle over a sentence, as a server would feed it, and returns what its gates did.

    Raises:
        BundleError: the folder holds no bundle, or a damaged one.
        InspectionError: the model has no gates, or the sentence no words.
    """
    bundle = load_bundle(folder)
    shape, weights = read_stack(folder, bundle)
    if shape.cell not in GATES:
        raise InspectionError(f"{folder}: a plain {shape.cell.upper()} has no gates; give an LSTM or a GRU")
    tokenizer = Tokenizer.from_file(folder / TOKENIZER_FILE)
    ids = _tokens(tokenizer, sentence)
    if not ids:
        raise InspectionError("the sentence has no words")
    if bundle.language_model is not None:
        ids = [bundle.language_model.bos_token_id, *ids]
    layers, outputs = run_stack(shape, weights, weights["embedding.weight"][ids])
    words = [tokenizer.words[token_id] for token_id in ids]
    return SentenceGates(f"{bundle.name} {bundle.version}", shape.cell, words, layers, outputs)


def run_stack(shape: StackShape, weights: Mapping[str, Array], x: Array) -> tuple[list[LayerGates], Array]:
    """Runs all layers over x [words, input_size] from an empty state; returns their gates and the stack's outputs."""
    layers: list[LayerGates] = []
    given = []
    for layer in range(shape.num_layers):
        directions = [_run_direction(shape, weights, suffix, x, layer) for suffix in shape.suffixes(layer)]
        layers += directions
        given.append(np.concatenate([direction.outputs for direction in directions], axis=1))
        x = _connect(shape, weights, layer, x, given[-1])
    return layers, np.concatenate(given, axis=1) if shape.connections == "dense" else x


def _run_direction(shape: StackShape, weights: Mapping[str, Array], suffix: str, x: Array, layer: int) -> LayerGates:
    backwards = suffix.endswith("_reverse")
    step: Callable[..., tuple[Array, Array, tuple[Array, ...]]] = _lstm_step if shape.cell == "lstm" else _gru_step
    w_hh, b_hh = weights[f"rnn.weight_hh_{suffix}"], weights[f"rnn.bias_hh_{suffix}"]
    projected = x @ weights[f"rnn.weight_ih_{suffix}"].T + weights[f"rnn.bias_ih_{suffix}"]  # [words, gates * H]
    h = c = np.zeros(shape.hidden_size, np.float32)
    outputs, gates = [], []
    for row in projected[::-1] if backwards else projected:
        h, c, of_word = step(row, w_hh @ h + b_hh, h, c)
        outputs.append(h)
        gates.append(of_word)
    order = slice(None, None, -1) if backwards else slice(None)
    by_gate = {name: np.stack([g[i] for g in gates])[order] for i, name in enumerate(GATES[shape.cell])}
    name = f"layer {layer + 1}{' backwards' if backwards else ' forwards' if shape.bidirectional else ''}"
    return LayerGates(name, by_gate, np.stack(outputs)[order])


def _lstm_step(x: Array, recurrent: Array, h: Array, c: Array) -> tuple[Array, Array, tuple[Array, ...]]:
    i, f, g, o = np.split(x + recurrent, 4)
    i, f, o = _sigmoid(i), _sigmoid(f), _sigmoid(o)
    c = f * c + i * np.tanh(g)
    return o * np.tanh(c), c, (f, i, o)


def _gru_step(x: Array, recurrent: Array, h: Array, c: Array) -> tuple[Array, Array, tuple[Array, ...]]:
    (x_r, x_z, x_n), (r_r, r_z, r_n) = np.split(x, 3), np.split(recurrent, 3)
    r, z = _sigmoid(x_r + r_r), _sigmoid(x_z + r_z)
    n = np.tanh(x_n + r * r_n)
    return (1 - z) * n + z * h, c, (r, z)


def _connect(shape: StackShape, weights: Mapping[str, Array], layer: int, x: Array, y: Array) -> Array:
    """Returns x_{l+1} of x_l and y_l, as `stack_shape` says."""
    if shape.connections == "dense":
        return np.concatenate([x, y], axis=1)
    if shape.connections == "none" or layer == 0:
        return y
    if shape.connections == "residual":
        return y + x
    gate = _sigmoid(x @ weights[f"rnn.highway_l{layer}.weight"].T + weights[f"rnn.highway_l{layer}.bias"])
    return gate * y + (1 - gate) * x


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result


def _tokens(tokenizer: Tokenizer, sentence: str) -> list[int]:
    return list(tokenizer.encode_batch([sentence])[0])
