"""Int8 graphs: near the float32 ones, the same bits in every batch, activations within their bounds."""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from bundles import SPECIALS, language_model_weights, sentence_encoder_weights
from hiddenstate_exporter.graphs.graph import write_language_model_graphs, write_sentence_encoder_graphs
from hiddenstate_exporter.graphs.int8_embedding import FOLD_LIMIT, folded_bytes
from hiddenstate_exporter.graphs.int8_graph import (
    INT8_WEIGHTS_FILE,
    write_int8_language_model_graphs,
    write_int8_sentence_encoder_graphs,
)
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections, StackShape
from hiddenstate_exporter.graphs.weights import WEIGHTS_FILE
from hiddenstate_exporter.publishing.activation_bounds import BoundError, activations, check_activation_bounds
from hiddenstate_exporter.publishing.invariance import (
    InvarianceError,
    check_language_model_invariance,
    check_sentence_encoder_invariance,
)
from hiddenstate_exporter.publishing.onnx_model import (
    FloatArray,
    IdArray,
    LengthArray,
    OnnxLanguageModel,
    OnnxSentenceEncoder,
)
from hiddenstate_server.bundle import Bundle, StateBound, load_bundle
from variant_bundles import VOCAB_SIZE, int8_language_model_bundle, int8_sentence_encoder_bundle

CELLS: tuple[Cell, ...] = ("rnn", "lstm", "gru")
CONNECTIONS: tuple[Connections, ...] = ("none", "residual", "highway", "dense")
POOLINGS: tuple[Pooling, ...] = ("mean", "max", "last", "attention")
ODD = 13  # a width that vectors of 4, 8 or 16 numbers do not fill
RANKS = np.arange(VOCAB_SIZE) - len(SPECIALS)


def _language_models(path: Path) -> tuple[OnnxLanguageModel, OnnxLanguageModel]:
    variants = load_bundle(path).variants
    return OnnxLanguageModel(path, variants["fp32"].graphs), OnnxLanguageModel(path, variants["int8"].graphs)


def _draw(rows: int, seq_len: int) -> tuple[IdArray, LengthArray]:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, seq_len, size=rows, endpoint=True).astype(np.int32)
    lengths[-1] = seq_len
    return rng.integers(VOCAB_SIZE, size=(rows, seq_len)), lengths


def _run(model: OnnxLanguageModel) -> tuple[FloatArray, FloatArray]:
    """The outputs [tokens, output_size] and states [batch, state_size] of a ragged batch."""
    tokens, lengths = _draw(16, 9)
    outputs, state = model.advance(tokens, lengths, np.zeros((16, model.state_size), np.float32))
    return outputs[np.arange(9) < lengths[:, None]], state


def _optimised(path: Path, graph: str, folder: Path) -> onnx.GraphProto:
    """A graph as ONNX Runtime keeps it after it was loaded."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path / graph), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx", load_external_data=False).graph


@pytest.mark.parametrize("fold_limit", [0, FOLD_LIMIT], ids=["multiplied", "folded"])
@pytest.mark.parametrize(("cell", "connections"), list(itertools.product(CELLS, CONNECTIONS)))
def test_every_stack_gives_the_same_bits_in_every_batch_and_keeps_within_its_bounds(
    tmp_path: Path, cell: Cell, connections: Connections, fold_limit: int
) -> None:
    path = int8_language_model_bundle(
        tmp_path,
        cell=cell,
        connections=connections,
        num_layers=3,
        hidden_size=ODD,
        embedding_size=7,
        fold_limit=fold_limit,
    )
    fp32, int8 = _language_models(path)
    check_language_model_invariance(int8, VOCAB_SIZE)
    bundle = load_bundle(path)
    check_activation_bounds(path, bundle, bundle.variants["int8"])
    (outputs, state), (expected_outputs, expected_state) = (_run(model) for model in (int8, fp32))
    assert 0 < np.abs(outputs - expected_outputs).mean() < 0.02
    assert 0 < np.abs(state - expected_state).mean() < 0.03


@pytest.mark.parametrize(
    ("cell", "connections", "pooling", "num_layers"),
    [
        *(("lstm", "none", pooling, 1) for pooling in POOLINGS),
        *((cell, connections, "mean", 3) for cell, connections in itertools.product(CELLS, CONNECTIONS)),
        ("gru", "dense", "last", 2),
        ("rnn", "highway", "attention", 2),
    ],
)
@pytest.mark.parametrize("fold_limit", [0, FOLD_LIMIT], ids=["multiplied", "folded"])
def test_every_encoder_gives_the_same_bits_in_every_batch_and_keeps_within_its_bounds(
    tmp_path: Path, cell: Cell, connections: Connections, pooling: Pooling, num_layers: int, fold_limit: int
) -> None:
    path = int8_sentence_encoder_bundle(
        tmp_path,
        cell=cell,
        connections=connections,
        pooling=pooling,
        num_layers=num_layers,
        hidden_size=ODD,
        dimension=11,
        fold_limit=fold_limit,
    )
    bundle = load_bundle(path)
    fp32, int8 = (OnnxSentenceEncoder(path, variant.graphs) for variant in bundle.variants.values())
    check_sentence_encoder_invariance(int8, VOCAB_SIZE)
    check_activation_bounds(path, bundle, bundle.variants["int8"])
    tokens, lengths = _draw(16, 9)
    assert 0 < np.abs(int8.embed(tokens, lengths) - fp32.embed(tokens, lengths)).mean() < 0.03


def test_an_encoder_that_neither_projects_nor_normalises_has_int8_graphs_too(tmp_path: Path) -> None:
    shape = StackShape(cell="lstm", connections="none", input_size=8, hidden_size=ODD, num_layers=1, bidirectional=True)
    weights = sentence_encoder_weights(VOCAB_SIZE, shape, 12, "mean", seed=0)
    del weights["projection.weight"], weights["projection.bias"]
    fp32 = write_sentence_encoder_graphs(tmp_path, weights, pooling="mean", normalized=False)
    int8 = write_int8_sentence_encoder_graphs(tmp_path, weights, beside=fp32, pooling="mean", normalized=False)
    check_sentence_encoder_invariance(OnnxSentenceEncoder(tmp_path, int8.graphs), VOCAB_SIZE)
    actual, expected = (OnnxSentenceEncoder(tmp_path, graphs).embed(*_draw(16, 9)) for graphs in (int8.graphs, fp32))
    assert 0 < np.abs(actual - expected).max() < 0.05


class _ByBatch(OnnxSentenceEncoder):
    """Answers as stock dynamic quantisation does: with a scale that the whole batch decides."""

    def embed(self, tokens: IdArray, lengths: LengthArray) -> FloatArray:
        vectors = super().embed(tokens, lengths)
        scale = np.abs(vectors).max() / 127
        return np.asarray(np.rint(vectors / scale) * scale, np.float32)


def test_an_encoder_whose_answer_depends_on_the_batch_is_refused(tmp_path: Path) -> None:
    path = int8_sentence_encoder_bundle(tmp_path)
    encoder = _ByBatch(path, load_bundle(path).variants["int8"].graphs)
    with pytest.raises(InvarianceError, match="embeddings: row 1 alone differs from the same row in a batch of 2"):
        check_sentence_encoder_invariance(encoder, VOCAB_SIZE)


class _LastRowOff(OnnxLanguageModel):
    """Changes one bit of the last row of a batch of 128."""

    def advance(self, tokens: IdArray, lengths: LengthArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        outputs, next_state = super().advance(tokens, lengths, state)
        if len(tokens) == 128:
            next_state[-1, -1] = np.nextafter(next_state[-1, -1], np.float32(2))
        return outputs, next_state


def test_one_bit_of_one_state_in_the_largest_batch_is_seen(tmp_path: Path) -> None:
    path = int8_language_model_bundle(tmp_path)
    model = _LastRowOff(path, load_bundle(path).variants["int8"].graphs)
    with pytest.raises(InvarianceError, match="next_state: row 127 alone differs from the same row in a batch of 128"):
        check_language_model_invariance(model, VOCAB_SIZE)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    path = int8_language_model_bundle(
        tmp_path_factory.mktemp("residual"), connections="residual", num_layers=3, fold_limit=0
    )
    return path, load_bundle(path)


def test_bounds_are_those_of_the_construction(residual: tuple[Path, Bundle]) -> None:
    _, bundle = residual
    variant = bundle.variants["int8"]
    shape = StackShape(cell="lstm", connections="residual", input_size=8, hidden_size=16, num_layers=3)
    table = language_model_weights(VOCAB_SIZE, shape, seed=0)["embedding.weight"].astype(np.float16)
    bounds = dict(variant.activation_bounds)
    assert [bounds.pop(f"rnn.l{layer}.h") for layer in range(3)] == [1, 1, 1]
    assert bounds.pop("hidden") == 3  # a sum of three outputs
    assert bounds.pop("projection.steps") == 127
    assert sorted(bounds.values()) == [2, float(np.abs(table).max())]  # a sum of two, and the embedding
    assert variant.state_bounds == (
        StateBound(offset=0, size=16, bound=1),
        StateBound(offset=32, size=16, bound=1),
        StateBound(offset=64, size=16, bound=1),
        StateBound(offset=96, size=16, bound=3),
    )


def test_activations_come_near_their_bounds(residual: tuple[Path, Bundle]) -> None:
    path, bundle = residual
    variant = bundle.variants["int8"]
    met = {name: value for graph in activations(path, bundle, variant).values() for name, value in graph.items()}
    assert met.keys() == variant.activation_bounds.keys()
    for name, value in met.items():
        assert 0.5 * variant.activation_bounds[name] < value


@pytest.mark.parametrize("place", range(7))
def test_an_activation_beyond_its_bound_is_refused(residual: tuple[Path, Bundle], place: int) -> None:
    path, bundle = residual
    variant = bundle.variants["int8"]
    name = sorted(variant.activation_bounds)[place]
    bounds = {**variant.activation_bounds, name: 0.1}
    with pytest.raises(BoundError, match=rf"{name} of the graph \w+ reaches .*, its bound is 0\.1"):
        check_activation_bounds(path, bundle, msgspec.structs.replace(variant, activation_bounds=bounds))


def test_the_folded_table_is_made_at_load_and_takes_half_precision(tmp_path: Path) -> None:
    path = int8_language_model_bundle(tmp_path)
    graph = _optimised(path, "recurrent.int8.onnx", tmp_path)
    assert "Gemm" not in {node.op_type for node in graph.node}
    sizes = {tuple(tensor.dims): tensor.data_type for tensor in graph.initializer}
    assert sizes[(VOCAB_SIZE, 4 * 16)] == onnx.TensorProto.FLOAT16
    assert (VOCAB_SIZE, 8) not in sizes  # the embedding itself is not needed any more


def test_a_table_that_would_be_too_large_is_not_folded(tmp_path: Path) -> None:
    shape = StackShape(cell="lstm", connections="none", input_size=8, hidden_size=16, num_layers=2)
    size = folded_bytes(shape, VOCAB_SIZE)
    assert size == VOCAB_SIZE * 4 * 16 * 2
    for name, limit, folded in (("a", size, True), ("b", size - 1, False)):
        path = int8_language_model_bundle(tmp_path / name, fold_limit=limit)
        bounds = load_bundle(path).variants["int8"].activation_bounds
        assert (len(bounds) == 4) == folded  # the embedding is quantised only if it is multiplied


def test_every_layer_and_direction_that_reads_the_embedding_counts_for_folding() -> None:
    shape = StackShape(cell="gru", connections="dense", input_size=8, hidden_size=16, num_layers=3, bidirectional=True)
    assert folded_bytes(shape, 100) == 3 * 2 * 100 * 3 * 16 * 2


def test_int8_graphs_store_nothing_that_the_float32_ones_have(tmp_path: Path) -> None:
    path = int8_language_model_bundle(tmp_path, hidden_size=64, embedding_size=32)
    model = onnx.load(path / "recurrent.int8.onnx", load_external_data=False)
    places = {tensor.name: tensor.external_data[0].value for tensor in model.graph.initializer if tensor.external_data}
    assert places.pop("embedding.weight") == places.pop("rnn.l0.W") == WEIGHTS_FILE
    assert set(places.values()) == {INT8_WEIGHTS_FILE}
    int8_weights = 3 * 64 * 4 * 64 + (64 + VOCAB_SIZE) * 32  # R of both layers, W of the second; projection, decoder
    assert int8_weights < (path / INT8_WEIGHTS_FILE).stat().st_size < 1.5 * int8_weights


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (int8_language_model_bundle(tmp_path / name) for name in "ab")
    for file in ("recurrent.int8.onnx", "head.int8.onnx", INT8_WEIGHTS_FILE):
        assert (first / file).read_bytes() == (second / file).read_bytes()


@pytest.mark.parametrize(("cell", "copied"), [("rnn", 0), ("lstm", 1), ("gru", 1)])
def test_a_loop_copies_only_what_it_carries_on_as_it_collects_it(tmp_path: Path, cell: Cell, copied: int) -> None:
    path = int8_language_model_bundle(tmp_path, cell=cell)
    model = onnx.load(path / "recurrent.int8.onnx", load_external_data=False)
    bodies = [a.g for node in model.graph.node if node.op_type == "Scan" for a in node.attribute if a.name == "body"]
    assert [sum(node.op_type == "Identity" for node in body.node) for body in bodies] == [copied, copied]


def test_no_product_of_activations_is_left_in_float32(tmp_path: Path) -> None:
    path = int8_language_model_bundle(tmp_path, connections="highway", num_layers=3)
    for graph in ("recurrent.int8.onnx", "head.int8.onnx"):
        operators = {node.op_type for node in _optimised(path, graph, tmp_path).node}
        assert not operators & {"MatMul", "Gemm", "FusedGemm", "FusedMatMul", "LSTM"}


def test_a_head_without_a_projection_is_quantised_as_it_is(tmp_path: Path) -> None:
    fp32, int8 = _language_models(int8_language_model_bundle(tmp_path, hidden_size=8, embedding_size=8))
    hidden = np.random.default_rng(0).uniform(-1, 1, (5, 8)).astype(np.float32)
    targets = np.arange(5)
    expected = fp32.top(hidden, 1, targets=targets).target_log_probs
    assert np.abs(int8.top(hidden, 1, targets=targets).target_log_probs - expected).max() < 0.2


def test_weights_that_cannot_be_stored_leave_no_int8_graph(tmp_path: Path) -> None:
    shape = StackShape(cell="lstm", connections="none", input_size=8, hidden_size=16, num_layers=2)
    weights = language_model_weights(VOCAB_SIZE, shape, seed=0)
    graphs = write_language_model_graphs(tmp_path, weights, RANKS)
    del weights["rnn.bias_hh_l1"]
    with pytest.raises(ValueError, match=r"rnn\.bias_hh_l1"):
        write_int8_language_model_graphs(tmp_path, weights, RANKS, beside=graphs)
    assert not list(tmp_path.glob("*int8*"))
