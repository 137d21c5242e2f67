"""Int8 heads: with and without a projection, and the adaptive softmax."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints import VOCABULARY
from hiddenstate_exporter.graphs.graph import write_language_model_graphs
from hiddenstate_exporter.graphs.int8_graph import write_int8_language_model_graphs
from hiddenstate_exporter.graphs.variant_graphs import VariantGraphs
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


def _write(folder: Path, model: LanguageModel) -> tuple[OnnxLanguageModel, VariantGraphs]:
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
        assert np.abs(actual - expected[:, target]).mean() < 0.2


def test_narrow_vectors_are_scaled_row_by_row(tmp_path: Path) -> None:
    model = _model(projection_size=8, tied=False, hidden_size=64)
    onnx_model, int8 = _write(tmp_path, model)
    assert sorted(int8.activation_bounds.values()) == [1, 1, 127]  # h, hidden, and a projected row in its own steps
    hidden = np.random.default_rng(0).uniform(-1, 1, (64, 64)).astype(np.float32)
    hidden *= np.geomspace(0.1, 1, 64, dtype=np.float32)[:, None]
    hidden[0] = 0
    expected = _log_probs(model, hidden)
    targets = expected.argmin(axis=1)
    actual = onnx_model.top(hidden, 1, targets=targets).target_log_probs
    # A scale for all rows would leave the small ones a tenth of the steps, and them off by ten times as much.
    assert np.abs(actual - expected[np.arange(64), targets])[:16].max() < 0.1
