"""The adaptive softmax: the loss, the graph, and the command that trains with it."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from checkpoints import VOCABULARY
from hiddenstate.v1.language_model_pb2 import PredictRequest
from hiddenstate_exporter.cli import export, train
from hiddenstate_exporter.graphs.graph import write_language_model_graphs
from hiddenstate_exporter.graphs.weights import WeightsError
from hiddenstate_exporter.networks.adaptive_softmax import AdaptiveSoftmax
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.publishing.checkpoint_model import weights_of
from hiddenstate_exporter.publishing.language_model_parity import check_language_model
from hiddenstate_exporter.publishing.onnx_model import IdArray, OnnxLanguageModel
from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_server.bundle import load_bundle
from hiddenstate_server.tokenizer import word_ranks
from serving import serving

RANKS = word_ranks(VOCABULARY, [0, 1])


def _config(**changes: Any) -> LanguageModelConfig:
    fields = {"vocab_size": len(VOCABULARY), "embedding_size": 16, "hidden_size": 12, "num_layers": 1, "tied": False}
    return LanguageModelConfig(**{**fields, "head": "adaptive_softmax", "cutoffs": (20, 45), **changes})


def _model(**changes: Any) -> LanguageModel:
    torch.manual_seed(1)
    model = LanguageModel(_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # away from the middle of every non-linearity
    return model


def _write(folder: Path, model: LanguageModel, ranks: IdArray = RANKS) -> OnnxLanguageModel:
    return OnnxLanguageModel(folder, write_language_model_graphs(folder, weights_of(model), ranks, dtype="float32"))


def test_the_row_and_the_loss_say_the_same_of_every_word() -> None:
    torch.manual_seed(0)
    decoder = AdaptiveSoftmax(16, 50, [10, 30], 2.0)
    rows, targets = torch.randn(50, 16), torch.arange(50)
    row = decoder(rows.view(5, 10, 16)).view(50, 50)
    assert torch.allclose(row.exp().sum(dim=1), torch.ones(50), atol=1e-5)
    for target in targets:
        one = slice(int(target), int(target) + 1)
        assert decoder.loss(rows[one], targets[one]).item() == pytest.approx(-row[target, target].item(), abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, {"cutoffs": (1,)}, {"cutoffs": (20, 45, 70), "div_value": 2.0}, {"projection_size": 0, "div_value": 1.0}],
    ids=str,
)
def test_the_graph_gives_the_whole_row_as_pytorch_does(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = _model(**changes)
    checked = check_language_model(_write(tmp_path, model), model, RANKS)
    assert 0 < checked.worst <= checked.tolerance


def test_a_vocabulary_of_100_000_words_builds_and_runs(tmp_path: Path) -> None:
    vocab_size = 100_003
    model = _model(vocab_size=vocab_size, embedding_size=8, hidden_size=4, cutoffs=(2_000, 10_000), div_value=2.0)
    ranks = np.arange(vocab_size)
    onnx_model = _write(tmp_path, model, ranks)
    hidden = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    with torch.inference_mode():
        expected = model.decoder(model.project(torch.from_numpy(hidden))).numpy()  # [3, vocab_size]
    targets = np.array([5, 9_999, 100_002])
    top = onnx_model.top(hidden, 10, targets=targets, ranks=(50_000, vocab_size))
    assert top.ids.min() >= 50_000
    np.testing.assert_allclose(top.log_probs, -np.sort(-expected[:, 50_000:], axis=1)[:, :10], atol=1e-4)
    np.testing.assert_allclose(top.target_log_probs, expected[np.arange(3), targets], atol=1e-4)


def test_a_graph_of_clusters_that_do_not_make_the_vocabulary_is_refused(tmp_path: Path) -> None:
    weights = dict(weights_of(_model()))
    weights["decoder.tail.1.1.weight"] = weights["decoder.tail.1.1.weight"][1:]
    with pytest.raises(WeightsError, match=r"'decoder.head.weight' has 22 rows, .* 53 words .* vocabulary of 74"):
        write_language_model_graphs(tmp_path, weights, RANKS)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"cutoffs": ()}, r"cutoffs are \[\], must be rising ids between 1 and 73"),
        ({"cutoffs": (20, 20)}, r"cutoffs are \[20, 20\]"),
        ({"cutoffs": (0, 20)}, r"cutoffs are \[0, 20\]"),
        ({"cutoffs": (20, 74)}, r"cutoffs are \[20, 74\]"),
        ({"div_value": 8.0}, r"div_value is 8, which leaves the last of 2 clusters less than one of 16 components"),
        ({"div_value": 0.0}, r"div_value is 0"),
        ({"tied": True}, r"tied is true, but the decoder has no table"),
        ({"head": "softmax"}, r"cutoffs are of the head adaptive_softmax only"),
        ({"head": "sampled"}, r"head is 'sampled', must be softmax or adaptive_softmax"),
    ],
)
def test_options_out_of_range_are_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        _config(**changes)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Pairs of words: the first decides the second. Low numbers are frequent."""
    dice = random.Random(0)
    numbers = [min(int(dice.expovariate(0.25)), 19) for _ in range(3000)]
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"word{n:c} goes{n:c}" for n in [97 + number for number in numbers]), encoding="utf-8")
    return path


def _train(book: Path, run_dir: Path, options: str) -> Result:
    arguments = ["language-model", "--data", str(book), "--run-dir", str(run_dir), *options.split()]
    size = "--vocab-size 40 --embedding-size 16 --hidden-size 16 --num-layers 1 --batch-size 8 --bptt 8 --threads 1"
    return CliRunner().invoke(train, [*arguments, *size.split()], prog_name="hiddenstate train")


ADAPTIVE = "--head adaptive-softmax --cutoffs 10,25 --div-value 2 --lr 0.02 --max-epochs 6"


@pytest.mark.usefixtures("small_grid")
@pytest.mark.parametrize("precision", ["", "--precision auto"])
async def test_a_model_is_trained_published_and_served(book: Path, tmp_path: Path, precision: str) -> None:
    result = _train(book, tmp_path / "run", f"{ADAPTIVE} {precision}")
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pt")
    assert checkpoint.config["cutoffs"] == (10, 25)
    assert checkpoint.metrics["perplexity"] < 3  # one of three tokens is a choice, among some eight words
    assert "--cutoffs 10,25 --div-value 2" in checkpoint.training["command"]
    published = CliRunner().invoke(export, [str(tmp_path / "run" / "best.pt"), "--to", str(tmp_path / "models")])
    assert published.exit_code == 0, published.output
    assert "LSTM 1x16, embedding 16 with adaptive softmax" in published.output
    assert load_bundle(tmp_path / "models" / "run" / "1").architecture.head == "adaptive_softmax"
    async with serving(tmp_path / "models") as wire:
        response = await wire.language_model.Predict(PredictRequest(text="wordf", top_k=1))
        restricted = await wire.language_model.Predict(PredictRequest(text="wordf", top_k=1, prefix="word"))
    assert [candidate.word for candidate in response.candidates] == ["goesf"]
    assert [candidate.word[:4] for candidate in restricted.candidates] == ["word"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("--head adaptive-softmax", "needs --cutoffs"),
        ("--cutoffs 5", "--cutoffs is for --head adaptive-softmax"),
        ("--div-value 2", "--div-value is for --head adaptive-softmax"),
        ("--head adaptive-softmax --cutoffs five", "--cutoffs 'five' is not a list of numbers"),
        ("--head adaptive-softmax --cutoffs 50", "cutoffs are [50], must be rising ids between 1 and 39"),
        ("--head adaptive-softmax --cutoffs 5 --tied", "--tied is for --head softmax"),
        ("--head adaptive-softmax --cutoffs 5 --sampled-softmax 8", "sampled_softmax: an adaptive softmax is fast"),
    ],
)
def test_options_that_contradict_each_other_are_refused(book: Path, tmp_path: Path, options: str, problem: str) -> None:
    result = _train(book, tmp_path / "run", options)
    assert result.exit_code in (1, 2)
    assert problem in result.output
