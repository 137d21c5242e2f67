import dataclasses
import shutil
from collections.abc import Callable, MutableSequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from checkpoints import VOCABULARY, language_model_checkpoint, sentence_encoder_checkpoint
from hiddenstate_exporter.graphs import cell_graph
from hiddenstate_exporter.graphs.graph import write_language_model_graphs, write_sentence_encoder_graphs
from hiddenstate_exporter.graphs.weights import StoredDtype
from hiddenstate_exporter.networks.language_model import LanguageModel
from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoder
from hiddenstate_exporter.publishing.checkpoint_model import (
    language_model_of,
    round_model,
    sentence_encoder_of,
    weights_of,
)
from hiddenstate_exporter.publishing.language_model_parity import check_language_model
from hiddenstate_exporter.publishing.onnx_model import OnnxLanguageModel, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.parity import TOLERANCE, ParityError, grid
from hiddenstate_exporter.publishing.sentence_encoder_parity import check_sentence_encoder
from hiddenstate_server.bundle import Parity
from hiddenstate_server.tokenizer import word_ranks

Graphs = dict[str, str]
Nodes = dict[str, onnx.NodeProto]
Damage = tuple[str, Callable[[Nodes, onnx.GraphProto], Any]]

RANKS = word_ranks(VOCABULARY, [0, 1])


def _language_model(folder: Path, dtype: StoredDtype = "float16") -> tuple[Graphs, LanguageModel]:
    """Writes the graphs of the tiny language model; returns them and the PyTorch model."""
    folder.mkdir(exist_ok=True)
    model = language_model_of(language_model_checkpoint())
    round_model(model, dtype)
    return write_language_model_graphs(folder, weights_of(model), RANKS, dtype=dtype), model


def _encoder(folder: Path, **config: Any) -> tuple[Graphs, SentenceEncoder]:
    folder.mkdir(exist_ok=True)
    model = sentence_encoder_of(sentence_encoder_checkpoint(**config))
    round_model(model, "float16")
    graphs = write_sentence_encoder_graphs(
        folder, weights_of(model), pooling=model.config.pooling, normalized=model.config.normalized
    )
    return graphs, model


def _check(folder: Path, graphs: Graphs, model: LanguageModel) -> Parity:
    return check_language_model(OnnxLanguageModel(folder, graphs), model, RANKS)


def _edit(path: Path, change: Callable[[Nodes, onnx.GraphProto], Any]) -> None:
    """Damages a graph: `change` gets its nodes by name."""
    onnx_model = onnx.load(path, load_external_data=False)
    change({node.name: node for node in onnx_model.graph.node}, onnx_model.graph)
    path.write_bytes(onnx_model.SerializeToString())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_graphs_of_a_language_model_equal_pytorch(tmp_path: Path, dtype: StoredDtype) -> None:
    parity = _check(tmp_path, *_language_model(tmp_path, dtype))
    assert 0 < parity.worst <= parity.tolerance == TOLERANCE
    assert parity.cases == len(grid(random_states=True)) == 64


@pytest.mark.parametrize(
    "config",
    [
        {"pooling": "mean"},
        {"pooling": "max"},
        {"pooling": "last"},
        {"pooling": "mean", "normalized": False},
    ],
    ids=str,
)
def test_the_graph_of_a_sentence_encoder_equals_pytorch(tmp_path: Path, config: dict[str, Any]) -> None:
    graphs, model = _encoder(tmp_path, **config)
    parity = check_sentence_encoder(OnnxSentenceEncoder(tmp_path, graphs), model)
    assert 0 < parity.worst <= 1e-5
    assert parity.cases == 32


def test_the_grid_has_single_and_many_rows_and_steps_with_padding_and_without() -> None:
    cases = grid(random_states=True)
    assert {(case.batch_size, case.seq_len) for case in cases} >= {(1, 1), (1, 40), (33, 1), (33, 40)}
    assert {(case.ragged, case.random_state) for case in cases if case.batch_size == 33 and case.seq_len == 40} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }


def test_weights_that_were_not_rounded_are_seen(tmp_path: Path) -> None:
    graphs, _ = _language_model(tmp_path)
    with pytest.raises(ParityError, match="differs from PyTorch"):
        _check(tmp_path, graphs, language_model_of(language_model_checkpoint()))


def test_a_wrong_gate_order_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = dataclasses.replace(cell_graph.OPERATORS["lstm"], onnx_gates="ifgo")
    monkeypatch.setitem(cell_graph.OPERATORS, "lstm", lstm)
    with pytest.raises(ParityError, match=r"outputs: differs from PyTorch by 0\.\d+, .* \(batch 1, seq 1"):
        _check(tmp_path, *_language_model(tmp_path))


def _swap(sequence: MutableSequence[str], first: int, second: int) -> None:
    sequence[first], sequence[second] = sequence[second], sequence[first]


RECURRENT_DAMAGE: dict[str, Damage] = {
    "h and c swapped in the new state": (
        "next_state",
        lambda nodes, graph: _swap(nodes["Concat_0"].input, 0, 1),
    ),
    "layers swapped in the new state": (
        "next_state",
        lambda nodes, graph: _swap(nodes["Concat_0"].input, 0, 2),
    ),
    "h and c swapped in the initial state": (
        "outputs: .*random initial state",
        lambda nodes, graph: _swap(nodes["LSTM_1"].input, 5, 6),
    ),
    "initial state ignored": (
        "outputs: .*random initial state",
        lambda nodes, graph: nodes["LSTM_0"].input.__delitem__(slice(5, None)),
    ),
    "lengths ignored": (
        "next_state: .*ragged lengths",
        lambda nodes, graph: nodes["LSTM_1"].input.__setitem__(4, ""),
    ),
    "time axis frozen": (
        "cannot run the graph: .*batch 1, seq 2",
        lambda nodes, graph: setattr(graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 1),
    ),
    "batch axis frozen": (
        "cannot run the graph: .*batch 2, seq 1",
        lambda nodes, graph: setattr(graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1),
    ),
    "outputs left time first": (
        r"outputs: has shape \[2, 1, 16\] \(batch 1, seq 2",
        lambda nodes, graph: nodes["Transpose_1"].attribute[0].ints.__setitem__(slice(0, 2), [0, 1]),
    ),
    "layer left out": ("outputs", lambda nodes, graph: nodes["Squeeze_1"].input.__setitem__(0, "LSTM_0.Y")),
}


@pytest.mark.parametrize("damage", RECURRENT_DAMAGE)
def test_a_damaged_recurrent_graph_is_refused(tmp_path: Path, damage: str) -> None:
    message, change = RECURRENT_DAMAGE[damage]
    graphs, model = _language_model(tmp_path)
    _edit(tmp_path / "recurrent.onnx", change)
    with pytest.raises(ParityError, match=message):
        _check(tmp_path, graphs, model)


def _ignore_restriction(nodes: Nodes, graph: onnx.GraphProto) -> None:
    branches = {attribute.name: attribute.g for attribute in nodes["If_0"].attribute}
    branches["then_branch"].CopyFrom(branches["else_branch"])


def _widen_upper_rank(nodes: Nodes, graph: onnx.GraphProto) -> None:
    branch = next(attribute.g for attribute in nodes["If_0"].attribute if attribute.name == "then_branch")
    above = [node for node in branch.node if node.op_type == "Sub"][-1]  # the upper end less the ranks
    end = next(node for node in branch.node if node.output[0] == above.input[0])
    end.op_type = "Add"  # half a rank above the first that is too many, not below it


HEAD_DAMAGE: dict[str, Damage] = {
    "restriction ignored": ("restricted", _ignore_restriction),
    "one rank too many": ("restricted", _widen_upper_rank),
    "no softmax": ("top_log_probs", lambda nodes, graph: setattr(nodes["LogSoftmax_0"], "op_type", "Softmax")),
    "targets ignored": (
        "target_log_probs",
        lambda nodes, graph: nodes[nodes["GatherElements_0"].input[1]].input.__setitem__(0, "rank_low"),
    ),
}


@pytest.mark.parametrize("damage", HEAD_DAMAGE)
def test_a_damaged_head_is_refused(tmp_path: Path, damage: str) -> None:
    message, change = HEAD_DAMAGE[damage]
    graphs, model = _language_model(tmp_path)
    _edit(tmp_path / "head.onnx", change)
    with pytest.raises(ParityError, match=message):
        _check(tmp_path, graphs, model)


def test_a_head_whose_words_are_ranked_otherwise_is_refused(tmp_path: Path) -> None:
    graphs, model = _language_model(tmp_path)
    with pytest.raises(ParityError, match="restricted"):
        check_language_model(OnnxLanguageModel(tmp_path, graphs), model, np.roll(RANKS, 1))


POOL_EVERYTHING: dict[str, Callable[[Nodes], Any]] = {
    "mean": lambda nodes: setattr(nodes["Less_0"], "op_type", "GreaterOrEqual"),
    "max": lambda nodes: nodes["Min_0"].input.__setitem__(1, nodes["Min_0"].input[0]),
}


@pytest.mark.parametrize("pooling", POOL_EVERYTHING)
def test_an_encoder_that_pools_over_padding_is_refused(tmp_path: Path, pooling: str) -> None:
    graphs, model = _encoder(tmp_path, pooling=pooling)
    _edit(tmp_path / "encoder.onnx", lambda nodes, graph: POOL_EVERYTHING[pooling](nodes))
    with pytest.raises(ParityError, match="embeddings"):
        check_sentence_encoder(OnnxSentenceEncoder(tmp_path, graphs), model)


def test_an_encoder_whose_backward_layer_reads_padding_is_refused(tmp_path: Path) -> None:
    graphs, model = _encoder(tmp_path)
    _edit(tmp_path / "encoder.onnx", lambda nodes, graph: nodes["LSTM_0"].input.__setitem__(4, ""))
    with pytest.raises(ParityError, match=r"embeddings: .*ragged lengths"):
        check_sentence_encoder(OnnxSentenceEncoder(tmp_path, graphs), model)


def test_an_encoder_that_does_not_normalise_is_refused(tmp_path: Path) -> None:
    graphs, model = _encoder(tmp_path, normalized=False)
    _, normalizing = _encoder(tmp_path / "other")
    with pytest.raises(ParityError, match="embeddings"):
        check_sentence_encoder(OnnxSentenceEncoder(tmp_path, graphs), normalizing)
    shutil.rmtree(tmp_path / "other")
    check_sentence_encoder(OnnxSentenceEncoder(tmp_path, graphs), model)


def test_nan_is_a_difference(tmp_path: Path) -> None:
    graphs, model = _language_model(tmp_path)
    head = onnx.load(tmp_path / "head.onnx", load_external_data=False)
    (bias,) = [tensor for tensor in head.graph.initializer if tensor.name == "decoder.bias"]
    offset = int({entry.key: entry.value for entry in bias.external_data}["offset"])
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[offset : offset + 2] = b"\xff\xff"  # NaN in half precision
    (tmp_path / "weights.bin").write_bytes(data)
    with pytest.raises(ParityError, match="differs from PyTorch by nan"):
        _check(tmp_path, graphs, model)
