"""Int8 heads: the projection that is multiplied out, and the adaptive softmax."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from checkpoints import VOCABULARY
from hiddenstate_exporter.graphs.graph import write_language_model_graphs
from hiddenstate_exporter.graphs.int8_graph import Int8Graphs, write_int8_language_model_graphs
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.publishing.checkpoint_model import round_model, weights_of
from hiddenstate_exporter.publishing.invariance import check_language_model_invariance
from hiddenstate_exporter.publishing.onnx_model import FloatArray, OnnxLanguageModel
from hiddenstate_server.tokenizer import word_ranks

RANKS = word_ranks(VOCABULARY, [0, 1])
ADAPTIVE = {"head": "adaptive_softmax", "cutoffs": (20, 45), "tied": False}


def _model(**fields: Any) -> LanguageModel:
    torch.manual_seed(1)
    sizes = {"vocab_size": len(VOCABULARY), "embedding_size": 16, "hidden_size": 12, "num_layers": 1}
    model = LanguageModel(LanguageModelConfig(**{**sizes, **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # away from the middle of every non-linearity
    round_model(model, "float16")
    return model


def _write(folder: Path, model: LanguageModel) -> tuple[OnnxLanguageModel, Int8Graphs]:
    weights = weights_of(model)
    fp32 = write_language_model_graphs(folder, weights, RANKS)
    int8 = write_int8_language_model_graphs(folder, weights, RANKS, beside=fp32)
    return OnnxLanguageModel(folder, int8.graphs), int8


def _log_probs(model: LanguageModel, hidden: FloatArray) -> FloatArray:
    with torch.inference_mode():
        expected = model.decoder(model.project(torch.from_numpy(hidden))).log_softmax(dim=-1)
    return np.asarray(expected.numpy(), np.float32)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"projection_size": 0, "tied": False},
        ADAPTIVE,
        {**ADAPTIVE, "projection_size": 0, "div_value": 1.0},
        {**ADAPTIVE, "cutoffs": (20, 45, 70), "div_value": 2.0, "connections": "residual", "num_layers": 2},
    ],
    ids=str,
)
def test_every_head_is_near_pytorch_and_the_same_in_every_batch(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = _model(**fields)
    onnx_model, int8 = _write(tmp_path, model)
    check_language_model_invariance(onnx_model, len(VOCABULARY))
    bound = int8.activation_bounds["hidden"]
    hidden = np.random.default_rng(0).uniform(-bound, bound, (64, model.config.shape.output_size)).astype(np.float32)
    expected = _log_probs(model, hidden)
    for target in range(len(VOCABULARY)):
        targets = np.full(64, target)
        actual = onnx_model.top(hidden, 1, targets=targets).target_log_probs
        assert np.abs(actual - expected[:, target]).max() < 1.0  # log probabilities go down to -30
        assert np.abs(actual - expected[:, target]).mean() < 0.1


def test_narrow_vectors_of_clusters_lose_less_than_eight_bits_would(tmp_path: Path) -> None:
    model = _model(**ADAPTIVE, hidden_size=256, div_value=2.0)
    (tmp_path / "fine").mkdir()
    (tmp_path / "coarse").mkdir()
    fine, _ = _write(tmp_path / "fine", model)
    coarse, int8 = _write(tmp_path / "coarse", model)
    _drop_fine_parts(tmp_path / "coarse" / int8.graphs["head"])
    coarse = OnnxLanguageModel(tmp_path / "coarse", int8.graphs)
    hidden = np.random.default_rng(0).uniform(-0.2, 0.2, (64, 256)).astype(np.float32)
    expected = _log_probs(model, hidden)[:, -1]  # the last word is in the last cluster
    targets = np.full(64, len(VOCABULARY) - 1)
    errors = [np.abs(one.top(hidden, 1, targets=targets).target_log_probs - expected).mean() for one in (fine, coarse)]
    assert errors[0] < errors[1] / 2


def _drop_fine_parts(path: Path) -> None:
    """Lets each sum of a coarse and a fine product give the coarse one alone."""
    model = onnx.load(path, load_external_data=False)
    products = {node.output[0] for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"}
    sums = [node for node in model.graph.node if node.op_type == "Add" and set(node.input) <= products]
    assert len(sums) == 2
    for node in sums:
        coarse = node.input[0]
        del node.input[1]
        node.op_type = "Identity"
        assert node.input[0] == coarse
    path.write_bytes(model.SerializeToString())


def test_the_bound_of_a_narrow_vector_is_its_largest_value_for_any_hidden_state(tmp_path: Path) -> None:
    model = _model(**ADAPTIVE)
    _, int8 = _write(tmp_path, model)
    matrix = model.state_dict()["decoder.tail.0.0.weight"] @ model.state_dict()["projection.weight"]
    shift = model.state_dict()["decoder.tail.0.0.weight"] @ model.state_dict()["projection.bias"]
    largest = float((matrix.abs().sum(dim=1) + shift.abs()).max())  # with hidden states within -1..1
    assert any(bound == pytest.approx(largest, rel=0.02) for bound in int8.activation_bounds.values())
