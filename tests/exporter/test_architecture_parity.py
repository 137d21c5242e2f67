"""Graphs of every architecture against PyTorch, and that a mistake in any of their parts is seen."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from architectures import STACKS
from checkpoints import VOCABULARY, language_model_checkpoint, sentence_encoder_checkpoint
from hiddenstate_exporter.graphs import cell_graph
from hiddenstate_exporter.graphs.graph import write_language_model_graphs, write_sentence_encoder_graphs
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.networks.language_model import LanguageModel
from hiddenstate_exporter.publishing import parity
from hiddenstate_exporter.publishing.checkpoint_model import (
    language_model_of,
    round_model,
    sentence_encoder_of,
    weights_of,
)
from hiddenstate_exporter.publishing.language_model_parity import check_language_model
from hiddenstate_exporter.publishing.onnx_model import OnnxLanguageModel, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.parity import ParityError
from hiddenstate_exporter.publishing.sentence_encoder_parity import check_sentence_encoder
from hiddenstate_server.bundle import Parity
from hiddenstate_server.tokenizer import word_ranks

Nodes = dict[str, onnx.NodeProto]
RANKS = word_ranks(VOCABULARY, [0, 1])


@pytest.fixture(autouse=True)
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and smaller batches than an export tries: there are many architectures."""
    monkeypatch.setattr(parity, "BATCH_SIZES", (1, 2, 5))
    monkeypatch.setattr(parity, "SEQ_LENS", (1, 2, 11))


def _write(folder: Path, cell: Cell, connections: Connections, num_layers: int) -> tuple[dict[str, str], LanguageModel]:
    checkpoint = language_model_checkpoint(cell=cell, connections=connections, num_layers=num_layers)
    model = language_model_of(checkpoint)
    round_model(model, "float16")
    graphs = write_language_model_graphs(folder, weights_of(model), RANKS, cell=cell, connections=connections)
    return graphs, model


def _check(folder: Path, graphs: dict[str, str], model: LanguageModel) -> Parity:
    return check_language_model(OnnxLanguageModel(folder, graphs), model, RANKS)


def _check_encoder(folder: Path, **fields: Any) -> Parity:
    model = sentence_encoder_of(sentence_encoder_checkpoint(**fields))
    round_model(model, "float16")
    config = model.config
    graphs = write_sentence_encoder_graphs(
        folder,
        weights_of(model),
        pooling=config.pooling,
        normalized=config.normalized,
        cell=config.cell,
        connections=config.connections,
    )
    return check_sentence_encoder(OnnxSentenceEncoder(folder, graphs), model)


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_a_language_model_equals_pytorch(tmp_path: Path, cell: Cell, connections: Connections) -> None:
    result = _check(tmp_path, *_write(tmp_path, cell, connections, num_layers=3))
    assert 0 < result.worst <= result.tolerance
    assert result.cases == 36


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_one_layer_whose_whole_state_is_its_output_equals_pytorch(tmp_path: Path, cell: Cell) -> None:
    assert _check(tmp_path, *_write(tmp_path, cell, "dense", num_layers=1)).worst > 0


@pytest.mark.parametrize(("cell", "connections"), [("lstm", "dense"), ("rnn", "residual"), ("gru", "highway")])
def test_eight_layers_equal_pytorch(tmp_path: Path, cell: Cell, connections: Connections) -> None:
    assert _check(tmp_path, *_write(tmp_path, cell, connections, num_layers=8)).worst > 0


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_a_bidirectional_encoder_equals_pytorch(tmp_path: Path, cell: Cell, connections: Connections) -> None:
    result = _check_encoder(tmp_path, cell=cell, connections=connections)
    assert 0 < result.worst <= 1e-5
    assert result.cases == 18


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["max", "last", "attention"])
@pytest.mark.parametrize(("cell", "connections"), [("lstm", "dense"), ("gru", "highway")])
def test_every_pooling_equals_pytorch(
    tmp_path: Path, cell: Cell, connections: Connections, pooling: Pooling, bidirectional: bool
) -> None:
    fields = {"cell": cell, "connections": connections, "pooling": pooling, "bidirectional": bidirectional}
    assert 0 < _check_encoder(tmp_path, **fields).worst <= 1e-5


def _drop(node: onnx.NodeProto, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    _drop(node, name)
    node.attribute.append(onnx.helper.make_attribute(name, value))


def _swap(node: onnx.NodeProto, first: int, second: int) -> None:
    node.input[first], node.input[second] = node.input[second], node.input[first]


CELL_DAMAGE: dict[str, tuple[Cell, str, Callable[[Nodes], None]]] = {
    "an RNN with another activation": (
        "rnn",
        r"outputs: .*batch 1, seq 1",
        lambda nodes: _set(nodes["RNN_0"], "activations", ["Sigmoid"]),
    ),
    "an RNN without its biases": ("rnn", "outputs: ", lambda nodes: nodes["RNN_1"].input.__setitem__(3, "")),
    "an RNN that forgets": (
        "rnn",
        "outputs: .*random initial state",
        lambda nodes: nodes["RNN_1"].input.__delitem__(slice(5, None)),
    ),
    "an LSTM with h and c swapped at the start": (
        "lstm",
        "outputs: .*random initial state",
        lambda nodes: _swap(nodes["LSTM_0"], 5, 6),
    ),
    "an LSTM with h and c swapped at the end": ("lstm", "next_state", lambda nodes: _swap(nodes["Concat_0"], 2, 3)),
    "a GRU that resets before the product": (
        "gru",
        "outputs: ",
        lambda nodes: _drop(nodes["GRU_1"], "linear_before_reset"),
    ),
    "a GRU with its layers swapped at the end": ("gru", "next_state", lambda nodes: _swap(nodes["Concat_0"], 0, 1)),
    "a GRU that reads padding": (
        "gru",
        "next_state: .*ragged lengths",
        lambda nodes: nodes["GRU_0"].input.__setitem__(4, ""),
    ),
}

CONNECTION_DAMAGE: dict[str, tuple[Connections, str, Callable[[Nodes], None]]] = {
    "a residual that is left out": (
        "residual",
        "outputs: ",
        lambda nodes: nodes["Add_0"].CopyFrom(onnx.helper.make_node("Identity", nodes["Add_0"].input[:1], ["Add_0"])),
    ),
    "a residual of the wrong layer": (
        "residual",
        "outputs: ",
        lambda nodes: nodes["Add_1"].input.__setitem__(1, "Squeeze_0"),
    ),
    "a highway gate turned round": (
        "highway",
        "outputs: ",
        lambda nodes: _swap_gates(nodes),
    ),
    "a highway gate that reads the layer's output": (
        "highway",
        "outputs: ",
        lambda nodes: nodes["MatMul_0"].input.__setitem__(0, nodes["Mul_0"].input[1]),
    ),
    "a dense output in another order": ("dense", "outputs: ", lambda nodes: _swap(nodes["Concat_2"], 0, 1)),
    "a dense layer that reads in another order": ("dense", "outputs: ", lambda nodes: _swap(nodes["Concat_1"], 0, 1)),
    "layers that read the last output in the state": (
        "highway",
        "outputs: .*random initial state",
        lambda nodes: nodes["Unsqueeze_0"].input.__setitem__(0, "Split_0.output"),
    ),
}


def _swap_gates(nodes: Nodes) -> None:
    gate, kept = nodes["Mul_0"].input[0], nodes["Mul_1"].input[0]
    nodes["Mul_0"].input[0], nodes["Mul_1"].input[0] = kept, gate


def _damage(path: Path, change: Callable[[Nodes], None]) -> None:
    graph = onnx.load(path, load_external_data=False)
    change({node.name: node for node in graph.graph.node})
    path.write_bytes(graph.SerializeToString())


@pytest.mark.parametrize("damage", CELL_DAMAGE)
def test_a_damaged_cell_is_refused(tmp_path: Path, damage: str) -> None:
    cell, message, change = CELL_DAMAGE[damage]
    graphs, model = _write(tmp_path, cell, "none", num_layers=2)
    _damage(tmp_path / graphs["recurrent"], change)
    with pytest.raises(ParityError, match=message):
        _check(tmp_path, graphs, model)


@pytest.mark.parametrize("damage", CONNECTION_DAMAGE)
def test_a_damaged_connection_is_refused(tmp_path: Path, damage: str) -> None:
    connections, message, change = CONNECTION_DAMAGE[damage]
    graphs, model = _write(tmp_path, "lstm", connections, num_layers=3)
    _damage(tmp_path / graphs["recurrent"], change)
    with pytest.raises(ParityError, match=message):
        _check(tmp_path, graphs, model)


def test_a_last_output_taken_of_padding_is_refused(tmp_path: Path) -> None:
    graphs, model = _write(tmp_path, "lstm", "residual", num_layers=2)
    path = tmp_path / graphs["recurrent"]
    graph = onnx.load(path, load_external_data=False)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(-1, np.int64), "end"))
    nodes = {node.name: node for node in graph.graph.node}
    reverse = nodes["ReverseSequence_0"]
    (gather,) = [node for node in nodes.values() if node.op_type == "Gather" and node.input[0] == reverse.output[0]]
    gather.input[:] = [reverse.input[0], "end"]
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ParityError, match=r"next_state: .*ragged lengths"):
        _check(tmp_path, graphs, model)


@pytest.mark.parametrize(("cell", "gates"), [("lstm", "ifgo"), ("lstm", "oifg"), ("gru", "rzn"), ("gru", "nrz")])
def test_gates_in_another_order_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: Cell, gates: str
) -> None:
    operator = dataclasses.replace(cell_graph.OPERATORS[cell], onnx_gates=gates)
    monkeypatch.setitem(cell_graph.OPERATORS, cell, operator)
    with pytest.raises(ParityError, match=r"outputs: differs from PyTorch by \d.*batch 1, seq 1"):
        _check(tmp_path, *_write(tmp_path, cell, "none", num_layers=2))


def test_a_bidirectional_encoder_with_its_directions_swapped_is_refused(tmp_path: Path) -> None:
    model = sentence_encoder_of(sentence_encoder_checkpoint(cell="gru", pooling="last"))
    round_model(model, "float16")
    weights = dict(weights_of(model))
    for name in [name for name in weights if name.endswith("_l1")]:
        weights[name], weights[f"{name}_reverse"] = weights[f"{name}_reverse"], weights[name]
    graphs = write_sentence_encoder_graphs(tmp_path, weights, pooling="last", normalized=True, cell="gru")
    with pytest.raises(ParityError, match="embeddings: differs from PyTorch"):
        check_sentence_encoder(OnnxSentenceEncoder(tmp_path, graphs), model)


def test_attention_over_padding_is_refused(tmp_path: Path) -> None:
    model = sentence_encoder_of(sentence_encoder_checkpoint(pooling="attention"))
    round_model(model, "float16")
    graphs = write_sentence_encoder_graphs(tmp_path, weights_of(model), pooling="attention", normalized=True)
    _damage(tmp_path / graphs["encoder"], lambda nodes: nodes["Softmax_0"].input.__setitem__(0, "MatMul_1"))
    with pytest.raises(ParityError, match=r"embeddings: .*ragged lengths"):
        check_sentence_encoder(OnnxSentenceEncoder(tmp_path, graphs), model)
