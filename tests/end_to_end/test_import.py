"""Models built in plain PyTorch are imported, served, and answer as PyTorch does."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from foreign_models import (
    BOS,
    EOS,
    WORDS,
    PlainEncoder,
    PlainLanguageModel,
    encoder_description,
    language_model_description,
    made,
)
from hiddenstate.v1.language_model_pb2 import PredictRequest, ScoreRequest
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from hiddenstate_exporter.cli import evaluate, import_
from hiddenstate_exporter.foreign.description import LanguageModelDescription, SentenceEncoderDescription, WordList
from hiddenstate_exporter.publishing import parity
from hiddenstate_server.bundle import load_bundle
from serving import serving

TEXT = "w3 w17 w3 w25 w9 w0"
TOKENS = [WORDS.index(word) for word in TEXT.split()]
CELLS = ("rnn", "lstm", "gru")


@pytest.fixture(autouse=True)
def small_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares few cases with PyTorch: the tests of the exporter test the comparison, and it takes seconds."""
    monkeypatch.setattr(parity, "BATCH_SIZES", (1, 5))
    monkeypatch.setattr(parity, "SEQ_LENS", (1, 7))


def _import(folder: Path, model: nn.Module, description: dict[str, Any], *options: str) -> Result:
    (folder / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (folder / "model.json").write_text(json.dumps(description), encoding="utf-8")
    torch.save(model.state_dict(), folder / "model.pt")
    arguments = [str(folder / "model.pt"), str(folder / "model.json"), "--to", str(folder / "models"), *options]
    return CliRunner().invoke(import_, arguments)


def _published(folder: Path, model: nn.Module, description: dict[str, Any]) -> Path:
    result = _import(folder, model, description, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    return folder / "models"


@pytest.mark.parametrize("cell", CELLS)
async def test_a_language_model_predicts_and_scores_as_in_pytorch(tmp_path: Path, cell: str) -> None:
    plain = made(PlainLanguageModel(cell))
    models = _published(tmp_path, plain, language_model_description(cell))
    with torch.inference_mode():
        log_probs = plain(torch.tensor([BOS, *TOKENS])).numpy()  # [1 + words, vocab_size]
    async with serving(models) as wire:
        predicted = await wire.language_model.Predict(PredictRequest(text=TEXT, top_k=26))
        scored = await wire.language_model.Score(ScoreRequest(text=TEXT))
    words = [candidate.word for candidate in predicted.candidates]
    assert sorted(words) == sorted(WORDS[4:])  # special words are no candidates
    expected = log_probs[-1, [WORDS.index(word) for word in words]]
    np.testing.assert_allclose([candidate.log_prob for candidate in predicted.candidates], expected, atol=1e-4)
    np.testing.assert_allclose(
        [token.log_prob for token in scored.tokens], log_probs[np.arange(len(TOKENS)), TOKENS], atol=1e-4
    )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "mean", "normalized": True, "dimension": 7},
        {"pooling": "max", "normalized": False},
        {"pooling": "last", "normalized": False},
        {"pooling": "last", "normalized": True, "bidirectional": False},
        {"pooling": "attention", "normalized": False, "dimension": 5},
    ],
    ids=str,
)
async def test_an_encoder_gives_the_vectors_of_pytorch(tmp_path: Path, cell: str, options: dict[str, Any]) -> None:
    plain = made(PlainEncoder(cell, **options))
    description = encoder_description(cell, pooling=options["pooling"], normalized=options["normalized"])
    if options["pooling"] == "attention":
        description |= {"attention": ["attend.0", "attend.2"]}
    else:
        description |= {"ignore": ["attend.*"]}
    if "dimension" in options:
        description |= {"projection": "top"}
    models = _published(tmp_path, plain, description)
    sentences = [TEXT, "w5", "w1 w2 w3"]
    with torch.inference_mode():
        expected = [plain(torch.tensor([WORDS.index(word) for word in text.split()])).numpy() for text in sentences]
    async with serving(models) as wire:
        reply = await wire.sentence_encoder.Encode(EncodeRequest(sentences=sentences))
    vectors = np.frombuffer(reply.embeddings, "<f4").reshape(len(sentences), -1)
    np.testing.assert_allclose(vectors, np.stack(expected), atol=1e-4)


def test_the_bundle_says_where_the_model_comes_from(tmp_path: Path) -> None:
    description = language_model_description("gru", license="MIT", training_data="Letters of a friend")
    result = _import(tmp_path, made(PlainLanguageModel("gru")), description, "--name", "letters", "--version", "7")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "models" / "letters" / "7"
    bundle = load_bundle(folder)
    assert bundle.license == "MIT"
    assert bundle.training.data == "Letters of a friend"
    assert bundle.training.command == "hiddenstate import model.pt model.json"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Letters of a friend" in card
    assert "0 seconds" not in card


def test_the_license_on_the_command_line_counts_more_than_the_description(tmp_path: Path) -> None:
    description = language_model_description("gru", license="MIT")
    result = _import(tmp_path, made(PlainLanguageModel("gru")), description, "--license", "CC0-1.0")
    assert result.exit_code == 0, result.output
    assert load_bundle(tmp_path / "models" / "model" / "1").license == "CC0-1.0"


def test_check_says_what_would_be_published_and_writes_nothing(tmp_path: Path) -> None:
    result = _import(tmp_path, made(PlainLanguageModel("rnn")), language_model_description("rnn"), "--check")
    assert result.exit_code == 0, result.output
    assert "language model, RNN 2x10, embedding 12" in result.output
    assert result.output.endswith("would be written (nothing was: --check)\n")
    assert not (tmp_path / "models").exists()


def test_the_example_of_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = _documentation()
    (model,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (description,) = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"^hiddenstate import (.*)$", section, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(model, {"__name__": "example"})
    Path("letters.json").write_text(description, encoding="utf-8")
    Path("vocab.txt").write_text("\n".join(["<eos>", "<unk>", *(f"w{n}" for n in range(998))]), encoding="utf-8")
    result = CliRunner().invoke(import_, command.split())
    assert result.exit_code == 0, result.output
    assert load_bundle(Path("models/letters/1")).license == "MIT"


@pytest.mark.parametrize("kind", [LanguageModelDescription, SentenceEncoderDescription, WordList])
def test_the_documentation_has_every_field(kind: type[msgspec.Struct]) -> None:
    named = set(re.findall(r"`(\w+)`", _documentation()))
    assert set(kind.__struct_fields__) <= named


def _documentation() -> str:
    text = (Path(__file__).parents[2] / "docs" / "exporter.md").read_text(encoding="utf-8")
    return text.partition("\n## Models from elsewhere\n")[2].partition("\n## ")[0]


def test_it_is_measured_with_the_marks_of_its_own_and_gets_int8_graphs(tmp_path: Path) -> None:
    plain = made(PlainLanguageModel("gru"))
    texts = [f"w{n} w{(5 * n) % 26} w{(7 * n + 3) % 26}" for n in range(20)]
    (tmp_path / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    arguments = ("--data", str(tmp_path / "text.txt"), "--part", "all", "--dtype", "float32")
    result = _import(tmp_path, plain, language_model_description("gru"), *arguments)
    assert result.exit_code == 0, result.output
    bundle = load_bundle(tmp_path / "models" / "model" / "1")
    stream = [BOS]
    for text in texts:
        stream += [*(WORDS.index(word) for word in text.split()), EOS, BOS]
    with torch.inference_mode():
        log_probs = plain(torch.tensor(stream[:-2]))  # [tokens, vocab_size]
    found = [float(log_probs[place, target]) for place, target in enumerate(stream[1:-1]) if target != BOS]
    assert bundle.metrics["perplexity"] == pytest.approx(np.exp(-np.mean(found)), rel=1e-4)
    assert "int8" in bundle.variants, result.output
    evaluated = CliRunner().invoke(evaluate, [str(tmp_path / "models" / "model" / "1"), *arguments[:4]])
    assert evaluated.exit_code == 0, evaluated.output


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"cell": "lstm"}, "model.json: cell: is \"lstm\", but tensor 'rnn.weight_hh_l0'"),
        ({"decoder": "fc"}, "model.json: tensor 'fc.weight' is missing"),
        ({"layers": 2}, "model.json: Object contains unknown field `layers`"),
        ({"bidirectional": True}, "model.json: bidirectional: a bidirectional language model reads the next word"),
        ({"vocabulary": {"words": "vocab.txt"}}, "vocab.txt: cannot be read: No such file"),
        ({"state_dict": "model"}, "model.pt: state_dict: nothing lies under 'model'"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(tmp_path: Path, fields: dict[str, Any], problem: str) -> None:
    result = _import(tmp_path, made(PlainLanguageModel("gru")), language_model_description("gru") | fields)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert problem in result.output
    assert not (tmp_path / "models").exists()
