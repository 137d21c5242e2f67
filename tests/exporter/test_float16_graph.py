"""Float16 graphs of every architecture against PyTorch, what is float16 in them, and what float16 cannot hold."""

import copy
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from architectures import CELLS, STACKS
from bundles import Weights
from checkpoints import VOCABULARY, language_model_checkpoint, sentence_encoder_checkpoint
from hiddenstate_exporter.graphs.float16_graph import (
    FLOAT16_MAX,
    write_float16_language_model_graphs,
    write_float16_sentence_encoder_graphs,
)
from hiddenstate_exporter.graphs.graph import write_language_model_graphs, write_sentence_encoder_graphs
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.graphs.weights import StoredDtype, WeightsError
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.publishing import parity
from hiddenstate_exporter.publishing.checkpoint_model import (
    language_model_of,
    round_model,
    sentence_encoder_of,
    weights_of,
)
from hiddenstate_exporter.publishing.language_model_parity import check_language_model
from hiddenstate_exporter.publishing.onnx_model import OnnxLanguageModel, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.parity import FP16_EMBEDDING_TOLERANCE, FP16_TOLERANCE, ParityError
from hiddenstate_exporter.publishing.sentence_encoder_parity import check_sentence_encoder
from hiddenstate_server.bundle import Parity, StateBound
from hiddenstate_server.tokenizer import word_ranks

RANKS = word_ranks(VOCABULARY, [0, 1])
FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
COMPUTED = {"LSTM", "GRU", "RNN", "Gemm", "MatMul", "Sigmoid"}
DELICATE = {"LogSoftmax", "Softmax", "ReduceSum", "ReduceL2", "Div"}


@pytest.fixture(autouse=True)
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and smaller batches than an export tries: there are many architectures."""
    monkeypatch.setattr(parity, "BATCH_SIZES", (1, 5))
    monkeypatch.setattr(parity, "SEQ_LENS", (1, 11))


def write(
    folder: Path,
    cell: Cell = "lstm",
    connections: Connections = "none",
    num_layers: int = 2,
    dtype: StoredDtype = "float16",
    factors: Mapping[str, float] = MappingProxyType({}),
) -> tuple[dict[str, str], LanguageModel]:
    """Writes the graphs of a language model, some of whose tensors are multiplied."""
    model = language_model_of(language_model_checkpoint(cell=cell, connections=connections, num_layers=num_layers))
    round_model(model, dtype)
    weights: Weights = {**weights_of(model)}
    stack: dict[str, Any] = {"cell": cell, "connections": connections}
    beside = write_language_model_graphs(folder, weights, RANKS, **stack, dtype=dtype)
    weights |= {name: factors.get(name, 1) * array for name, array in weights.items()}
    return write_float16_language_model_graphs(folder, weights, RANKS, beside=beside, **stack).graphs, model


def write_encoder(folder: Path, **fields: Any) -> Parity:
    """Writes the graphs of a sentence encoder and compares them with PyTorch."""
    model = sentence_encoder_of(sentence_encoder_checkpoint(**fields))
    round_model(model, "float16")
    config = model.config
    options: dict[str, Any] = {
        "pooling": config.pooling,
        "normalized": config.normalized,
        "cell": config.cell,
        "connections": config.connections,
    }
    beside = write_sentence_encoder_graphs(folder, weights_of(model), **options)
    graphs = write_float16_sentence_encoder_graphs(folder, weights_of(model), beside=beside, **options).graphs
    return check_sentence_encoder(OnnxSentenceEncoder(folder, graphs), model, FP16_EMBEDDING_TOLERANCE)


def check(folder: Path, graphs: dict[str, str], model: LanguageModel, tolerance: float = FP16_TOLERANCE) -> Parity:
    return check_language_model(OnnxLanguageModel(folder, graphs), model, RANKS, tolerance)


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_a_language_model_is_near_pytorch(tmp_path: Path, cell: Cell, connections: Connections) -> None:
    result = check(tmp_path, *write(tmp_path, cell, connections, num_layers=3))
    assert 1e-4 < result.worst <= 0.05  # so it does not compute in float32
    assert result.cases == 16


@pytest.mark.parametrize(
    "fields",
    [
        {"projection_size": 0, "tied": False},
        {"head": "adaptive_softmax", "cutoffs": (20, 45), "tied": False},
        {"head": "adaptive_softmax", "cutoffs": (20, 45, 70), "tied": False, "projection_size": 0, "div_value": 1.0},
    ],
    ids=str,
)
def test_every_head_is_near_pytorch_and_its_softmaxes_are_float32(tmp_path: Path, fields: dict[str, Any]) -> None:
    torch.manual_seed(1)
    sizes = {"vocab_size": len(VOCABULARY), "embedding_size": 16, "hidden_size": 12, "num_layers": 1}
    model = LanguageModel(LanguageModelConfig(**{**sizes, **fields})).eval()
    round_model(model, "float16")
    beside = write_language_model_graphs(tmp_path, weights_of(model), RANKS)
    graphs = write_float16_language_model_graphs(tmp_path, weights_of(model), RANKS, beside=beside).graphs
    assert 0 < check(tmp_path, graphs, model).worst <= 0.01
    graph, types = types_of(tmp_path / graphs["head"])
    softmaxes = [node for node in graph.node if node.op_type == "LogSoftmax"]
    assert len(softmaxes) == 1 + len(fields.get("cutoffs", ()))
    assert {types[node.input[0]] for node in softmaxes} == {FLOAT}
    assert {types[node.output[0]] for node in graph.node if node.op_type in COMPUTED} == {FLOAT16}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max", "last", "attention"])
@pytest.mark.parametrize(("cell", "connections"), [("rnn", "none"), ("lstm", "residual"), ("gru", "highway")])
def test_a_sentence_encoder_is_near_pytorch(
    tmp_path: Path, cell: Cell, connections: Connections, pooling: Pooling, bidirectional: bool
) -> None:
    fields = {"cell": cell, "connections": connections, "pooling": pooling, "bidirectional": bidirectional}
    assert 0 < write_encoder(tmp_path, **fields).worst <= 1e-3


def test_a_dense_bidirectional_encoder_without_normalisation_is_near_pytorch(tmp_path: Path) -> None:
    assert 0 < write_encoder(tmp_path, connections="dense", normalized=False).worst <= FP16_EMBEDDING_TOLERANCE


@pytest.mark.parametrize("cell", CELLS)
def test_swapped_weights_are_seen_in_spite_of_the_wider_tolerance(tmp_path: Path, cell: Cell) -> None:
    graphs, model = write(tmp_path, cell)
    path = tmp_path / graphs["recurrent"]
    graph = onnx.load(path, load_external_data=False)
    _, second = (node for node in graph.graph.node if node.op_type == cell.upper())
    second.input[1], second.input[2] = second.input[2], second.input[1]  # W and R, which are as wide here
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ParityError, match=r"outputs: differs from PyTorch by .*, allowed is 0\.25"):
        check(tmp_path, graphs, model)


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_arithmetic_in_float16_at_every_step_stays_within_the_tolerance(cell: Cell, connections: Connections) -> None:
    """PyTorch stands for a GPU: ONNX Runtime's CPU provider computes in float32 between its casts."""
    model = language_model_of(language_model_checkpoint(cell=cell, connections=connections, num_layers=3))
    round_model(model, "float16")
    halved = copy.deepcopy(model).half()
    tokens = torch.randint(len(VOCABULARY), (16, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, state = model.outputs(tokens)
        outputs, halved_state = halved.outputs(tokens)
        log_probs = halved.decoder(halved.project(outputs)).float().log_softmax(-1)
        expected_log_probs = model.decoder(model.project(expected)).log_softmax(-1)
    pairs = [(outputs, expected), (log_probs, expected_log_probs), *zip(halved_state, state, strict=True)]
    assert 1e-4 < max(float((one.float() - other).abs().max()) for one, other in pairs) < FP16_TOLERANCE


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "attention"])
@pytest.mark.parametrize("cell", CELLS)
def test_vectors_by_arithmetic_in_float16_stay_within_the_tolerance(cell: Cell, pooling: Pooling) -> None:
    model = sentence_encoder_of(sentence_encoder_checkpoint(cell=cell, pooling=pooling))
    round_model(model, "float16")
    halved = copy.deepcopy(model).half()
    tokens = torch.randint(len(VOCABULARY), (16, 40), generator=torch.Generator().manual_seed(0))
    lengths = torch.full((16,), 40)
    with torch.inference_mode():
        difference = float((halved(tokens, lengths).float() - model(tokens, lengths)).abs().max())
    assert 1e-5 < difference < FP16_EMBEDDING_TOLERANCE


def types_of(path: Path) -> tuple[onnx.GraphProto, dict[str, int]]:
    """Returns a graph and the element types of its values."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), strict_mode=True)
    known = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        known[value.name] = value.type.tensor_type.elem_type
    return model.graph, known


@pytest.mark.parametrize("cell", CELLS)
def test_layers_and_products_are_float16_and_what_is_delicate_float32(tmp_path: Path, cell: Cell) -> None:
    graphs, _ = write(tmp_path, cell, "highway", num_layers=3)
    met = set()
    for name in graphs.values():
        graph, types = types_of(tmp_path / name)
        for node in graph.node:
            if node.op_type in COMPUTED | DELICATE:
                met.add(node.op_type)
                expected = FLOAT16 if node.op_type in COMPUTED else FLOAT
                assert types[node.input[0]] == types[node.output[0]] == expected, node.name
    assert met == {cell.upper(), "MatMul", "Sigmoid", "Gemm", "LogSoftmax"}


@pytest.mark.parametrize(("pooling", "delicate"), [("mean", {"ReduceSum", "Div"}), ("attention", {"Softmax"})])
def test_pooling_sums_in_float32(tmp_path: Path, pooling: Pooling, delicate: set[str]) -> None:
    write_encoder(tmp_path, pooling=pooling)
    graph, types = types_of(tmp_path / "encoder.fp16.onnx")
    delicate = {*delicate, "ReduceL2"}
    nodes = [node for node in graph.node if node.op_type in delicate]
    assert {node.op_type for node in nodes} == delicate
    assert all(types[node.input[0]] == types[node.output[0]] == FLOAT for node in nodes)


@pytest.mark.parametrize("cell", CELLS)
def test_graphs_take_and_give_what_the_float32_ones_do(tmp_path: Path, cell: Cell) -> None:
    graphs, _ = write(tmp_path, cell)
    for name, file in graphs.items():
        fp16, fp32 = (onnx.load(tmp_path / path, load_external_data=False).graph for path in (file, f"{name}.onnx"))
        assert fp16.input == fp32.input
        assert fp16.output == fp32.output


@pytest.mark.parametrize("cell", CELLS)
def test_layers_are_such_as_onnx_runtime_gives_to_cudnn(tmp_path: Path, cell: Cell) -> None:
    """Weights that are initializers, usual activations, no clipping, a GRU that resets behind the product."""
    write_encoder(tmp_path, cell=cell)
    graph, types = types_of(tmp_path / "encoder.fp16.onnx")
    stored = {tensor.name for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type == cell.upper()]
    assert len(layers) == 2
    for layer in layers:
        assert {*layer.input[1:4]} <= stored
        assert {types[name] for name in layer.input[:4]} == {FLOAT16}
        attributes = {attribute.name: attribute.i for attribute in layer.attribute if attribute.name != "direction"}
        assert attributes == {"hidden_size": 10} | ({"linear_before_reset": 1} if cell == "gru" else {})
    assert {node.domain for node in graph.node} == {""}


def test_weights_that_are_stored_as_float16_are_shared_with_the_float32_graphs(tmp_path: Path) -> None:
    write(tmp_path)
    assert not (tmp_path / "weights.fp16.bin").exists()
    for name in ("recurrent", "head"):
        graph = onnx.load(tmp_path / f"{name}.fp16.onnx", load_external_data=False).graph
        assert {
            place.value for tensor in graph.initializer for place in tensor.external_data if place.key == "location"
        } == {"weights.bin"}


def test_beside_float32_weights_there_are_others_of_half_the_size(tmp_path: Path) -> None:
    graphs, model = write(tmp_path, dtype="float32")
    sizes = [(tmp_path / name).stat().st_size for name in ("weights.fp16.bin", "weights.bin")]
    assert 0.4 * sizes[1] < sizes[0] < 0.6 * sizes[1]
    # The rounding of the weights counts as a difference from PyTorch, whose weights are whole.
    assert check(tmp_path, graphs, model).worst > 1e-3


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name, dtype="float32")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("factor", [1e6, np.inf, np.nan])
def test_a_weight_that_float16_cannot_hold_is_refused_by_name(tmp_path: Path, factor: float) -> None:
    reason = "too large for float16" if factor == 1e6 else "not finite"
    with pytest.raises(WeightsError, match=rf"tensor 'decoder\.bias' holds values that are {reason}"):
        write(tmp_path, factors={"decoder.bias": factor})
    assert not list(tmp_path.glob("*fp16*"))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("connections", ["none", "dense"])
def test_gates_that_float16_cannot_hold_are_refused(tmp_path: Path, cell: Cell, connections: Connections) -> None:
    tensor = "rnn.weight_hh_l1" if connections == "dense" else "rnn.weight_ih_l1"
    with pytest.raises(
        WeightsError, match=r"'rnn\.weight_ih_l1' .* can carry a gate to .*, float16 holds up to 65,504"
    ):
        write(tmp_path, cell, connections, factors={tensor: 2e4})
    assert not list(tmp_path.glob("*fp16*"))


def test_an_embedding_that_carries_a_gate_out_of_float16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'rnn\.weight_ih_l0' .* can carry a gate"):
        write(tmp_path, factors={"embedding.weight": 1e3, "rnn.weight_ih_l0": 1e2})


@pytest.mark.parametrize(
    ("cell", "connections", "expected"),
    [
        ("lstm", "none", [(0, 16, 1), (16, 16, FLOAT16_MAX), (32, 16, 1), (48, 16, FLOAT16_MAX)]),
        ("gru", "residual", [(0, 16, 1), (16, 16, 1), (32, 16, 2)]),
    ],
)
def test_a_state_is_bounded_by_what_layers_give_and_float16_holds(
    tmp_path: Path, cell: Cell, connections: Connections, expected: list[tuple[int, int, float]]
) -> None:
    model = language_model_of(language_model_checkpoint(cell=cell, connections=connections))
    stack: dict[str, Any] = {"cell": cell, "connections": connections}
    beside = write_language_model_graphs(tmp_path, weights_of(model), RANKS, **stack)
    written = write_float16_language_model_graphs(tmp_path, weights_of(model), RANKS, beside=beside, **stack)
    assert written.state_bounds == tuple(StateBound(offset=o, size=size, bound=bound) for o, size, bound in expected)


def test_the_largest_cell_state_gives_finite_answers(tmp_path: Path) -> None:
    graphs, _ = write(tmp_path)
    state = np.zeros((2, 64), np.float32)
    state[:, 16:32], state[1, 48:] = FLOAT16_MAX, -FLOAT16_MAX
    model = OnnxLanguageModel(tmp_path, graphs)
    outputs, next_state = model.advance(np.ones((2, 40), np.int64), np.full(2, 40, np.int32), state)
    assert np.isfinite(outputs).all()
    assert np.isfinite(next_state).all()
    assert np.isfinite(model.top(outputs[:, -1], 5).log_probs).all()
