import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from architectures import STACKS
from bundles import SPECIALS, WORDS, Weights, language_model_bundle, language_model_weights, sentence_encoder_bundle
from hiddenstate_exporter.graphs.graph import write_language_model_graphs, write_sentence_encoder_graphs
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections, StackShape
from hiddenstate_exporter.graphs.weights import WEIGHTS_FILE, StoredDtype, WeightsError
from hiddenstate_server.bundle import load_bundle

VOCAB_SIZE = len(WORDS) + len(SPECIALS)
RANKS = np.arange(VOCAB_SIZE) - len(SPECIALS)
SHAPE = StackShape(cell="lstm", connections="none", input_size=8, hidden_size=16, num_layers=2)


def _weights() -> Weights:
    return language_model_weights(VOCAB_SIZE, SHAPE, seed=0)


def _optimised(path: Path, tmp_path: Path) -> onnx.GraphProto:
    """The graph as ONNX Runtime keeps it after the optimisations that it does at every level."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph


def test_graphs_are_written_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from hiddenstate_exporter.graphs import graph; import bundles; from pathlib import Path; "
        f"bundles.language_model_bundle(Path({str(tmp_path)!r})); sys.exit('torch' in sys.modules)"
    )
    tests = [path for path in sys.path if path.endswith("tests")][:1]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {tests}; {code}"], check=True)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_tiny_language_model_bundle_loads(tmp_path: Path, dtype: StoredDtype) -> None:
    folder = language_model_bundle(tmp_path, dtype=dtype)
    bundle = load_bundle(folder)
    assert bundle.kind == "language_model"
    assert {path.name for path in folder.iterdir()} == {*bundle.files, "bundle.json", "README.md"}


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_a_tiny_sentence_encoder_bundle_loads(tmp_path: Path, pooling: Pooling) -> None:
    assert load_bundle(sentence_encoder_bundle(tmp_path, pooling=pooling)).kind == "sentence_encoder"


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        write_language_model_graphs(tmp_path / name, _weights(), RANKS)
    for file in ("recurrent.onnx", "head.onnx", WEIGHTS_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("pooling", ["last", "attention"])
@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_graphs_of_every_stack_are_the_same_every_time_and_have_no_loops(
    tmp_path: Path, cell: Cell, connections: Connections, pooling: Pooling
) -> None:
    stack: dict[str, Any] = {"cell": cell, "connections": connections, "num_layers": 3}
    for name in ("a", "b"):
        language_model_bundle(tmp_path / name, **stack)
        sentence_encoder_bundle(tmp_path / name, **stack, pooling=pooling)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    for path in [*(tmp_path / "a").rglob("recurrent.onnx"), *(tmp_path / "a").rglob("encoder.onnx")]:
        nodes = onnx.load(path, load_external_data=False).graph.node
        assert not {node.op_type for node in nodes} & {"If", "Loop", "Scan", "SequenceMap"}
        assert {node.domain for node in nodes} == {""}


def test_a_tied_embedding_is_stored_once_for_both_graphs(tmp_path: Path) -> None:
    weights = _weights()
    (tmp_path / "tied").mkdir()
    (tmp_path / "untied").mkdir()
    write_language_model_graphs(tmp_path / "tied", weights, RANKS)
    write_language_model_graphs(tmp_path / "untied", {**weights, "decoder.weight": -weights["decoder.weight"]}, RANKS)
    sizes = [(tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("tied", "untied")]
    table = 2 * weights["embedding.weight"].size
    assert table <= sizes[1] - sizes[0] < table + 64


def test_graph_files_hold_no_weights(tmp_path: Path) -> None:
    folder = language_model_bundle(tmp_path, hidden_size=64, embedding_size=32)
    assert (folder / WEIGHTS_FILE).stat().st_size > 100_000
    assert all(path.stat().st_size < 5_000 for path in folder.glob("*.onnx"))


def test_onnx_runtime_widens_weights_once_at_load(tmp_path: Path) -> None:
    folder = language_model_bundle(tmp_path)
    recurrent = _optimised(folder / "recurrent.onnx", tmp_path)
    # The one that is left widens looked-up rows of the embedding table, which stays in half precision.
    (cast,) = [node for node in recurrent.node if node.op_type == "Cast"]
    (gather,) = [node for node in recurrent.node if node.op_type == "Gather"]
    assert cast.input[0] == gather.output[0]
    types = {tensor.name: tensor.data_type for tensor in recurrent.initializer}
    assert types[gather.input[0]] == onnx.TensorProto.FLOAT16
    assert not [node for node in _optimised(folder / "head.onnx", tmp_path).node if node.op_type == "Cast"]


def test_graphs_name_their_maker_and_standard(tmp_path: Path) -> None:
    folder = sentence_encoder_bundle(tmp_path)
    model = onnx.load(folder / "encoder.onnx", load_external_data=False)
    assert model.producer_name == "hiddenstate"
    assert model.opset_import[0].version == load_bundle(folder).opset == 17


def test_a_bidirectional_language_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    weights = _weights()
    weights |= {f"{name}_reverse": array for name, array in weights.items() if name.endswith("_l0")}
    weights |= {f"{name}_reverse": array for name, array in weights.items() if name.endswith("_l1")}
    weights["rnn.weight_ih_l1"] = weights["rnn.weight_ih_l1_reverse"] = np.zeros((64, 32), np.float32)
    with pytest.raises(WeightsError, match="may not read the words after the one it predicts"):
        write_language_model_graphs(tmp_path, weights, RANKS)


@pytest.mark.parametrize("name", sorted(_weights().keys() - {"projection.weight"}))
def test_a_missing_tensor_is_refused_by_name(tmp_path: Path, name: str) -> None:
    weights = _weights()
    del weights[name]
    with pytest.raises(WeightsError, match=f"tensor {name!r} is missing"):
        write_language_model_graphs(tmp_path, weights, RANKS)


def test_a_model_whose_projection_was_lost_is_refused(tmp_path: Path) -> None:
    weights = _weights()
    del weights["projection.weight"]
    with pytest.raises(WeightsError, match=r"tensor 'decoder\.weight' has shape \[\d+, 8\], expected \[\d+, 16\]"):
        write_language_model_graphs(tmp_path, weights, RANKS)


def test_a_tensor_that_belongs_to_no_layer_is_refused(tmp_path: Path) -> None:
    weights = {**_weights(), "rnn.weight_hr_l0": np.zeros((4, 16), np.float32)}
    with pytest.raises(WeightsError, match=r"rnn\.weight_hr_l0"):
        write_language_model_graphs(tmp_path, weights, RANKS)


def test_ranks_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"has {VOCAB_SIZE - 1} tokens, the model's vocabulary {VOCAB_SIZE}"):
        write_language_model_graphs(tmp_path, _weights(), RANKS[:-1])


def test_nothing_is_written_when_a_weight_cannot_be_stored(tmp_path: Path) -> None:
    weights = _weights()
    weights["rnn.weight_hh_l1"][0, 0] = 1e6
    with pytest.raises(WeightsError, match=r"rnn\.weight_hh_l1.*too large"):
        write_sentence_encoder_graphs(tmp_path, weights, pooling="mean", normalized=True)
    assert not list(tmp_path.iterdir())
