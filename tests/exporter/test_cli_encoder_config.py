"""`hiddenstate train sentence-encoder --config`, with a tiny teacher: a file, options and --set over each other."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner, Result

from hiddenstate_exporter.cli import train
from hiddenstate_exporter.publishing.export import ExportOptions, export
from hiddenstate_exporter.training import teacher
from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_server.bundle import BUNDLE_FILE
from teachers import WordTeacher, sentences


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What teachers were asked for; each time a tiny one comes."""
    asked: list[tuple[str, str]] = []

    def load(spec: str, dtype: str) -> WordTeacher:
        asked.append((spec, dtype))
        return WordTeacher()

    monkeypatch.setattr(teacher, "load_teacher", load)
    return asked


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run as a file, with attention and few dimensions."""
    (tmp_path / "data.txt").write_text("\n".join(sentences(300)), encoding="utf-8")
    tables = {
        "data": {"sentences": [str(tmp_path / "data.txt")], "held_out": 30, "description": "a farm's diary"},
        "distillation": {"teacher": "package:tiny", "teacher_dtype": "bfloat16"},
        "model": {"embedding_size": 8, "hidden_size": 8, "pooling": "attention", "attention_size": 8, "dimension": 4},
        "batches": {"batch_size": 16},
        "optimizer": {"lr": 0.02},
        "training": {"max_epochs": 1, "threads": 1},
    }
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def invoke(run_dir: Path, *options: object) -> Result:
    arguments = ["sentence-encoder", "--run-dir", run_dir, *options]
    return CliRunner().invoke(train, [str(argument) for argument in arguments], prog_name="hiddenstate train")


def kept(run_dir: Path) -> dict[str, Any]:
    return tomllib.loads((run_dir / "config.toml").read_text(encoding="utf-8"))


def test_a_file_options_and_settings_are_laid_over_each_other_and_kept_everywhere(
    loaded: list[tuple[str, str]], config: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    options = ("--attention-heads", 2, "--lr", 0.01, "--set", "optimizer.lr=0.03", "--set", "model.dimension=none")
    result = invoke(run_dir, "--config", config, *options)
    assert result.exit_code == 0, result.output
    assert loaded == [("package:tiny", "bfloat16")]
    assert "warning: 30 held-out sentences are too few to choose the best weights by (100 or more can)" in result.output
    tables = kept(run_dir)
    assert tables["model"]["attention_heads"] == 2
    assert "dimension" not in tables["model"]
    assert tables["optimizer"]["lr"] == 0.03
    assert tables["data"]["held_out"] == 30
    best, last = load_checkpoint(run_dir / "best.pt"), load_checkpoint(run_dir / "last.pt")
    assert (best.config["attention_heads"], best.config["attention_size"], best.config["dimension"]) == (2, 8, 8)
    assert best.training["data"].startswith("270 sentences from a farm's diary; their vectors by word teacher 1.0;")
    folder = export(run_dir / "best.pt", ExportOptions(to=tmp_path / "models"))
    bundle = json.loads((folder / BUNDLE_FILE).read_bytes())
    for training in (best.training, last.training, bundle["training"]):
        assert json.loads(json.dumps(training["config"])) == tables


def test_a_resumed_run_takes_its_own_file_and_options_change_it(
    loaded: list[tuple[str, str]], config: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    assert invoke(run_dir, "--config", config).exit_code == 0
    config.unlink()
    result = invoke(run_dir, "--resume", "--max-epochs", 2)
    assert result.exit_code == 0, result.output
    assert loaded[-1] == ("package:tiny", "bfloat16")
    assert kept(run_dir)["training"]["max_epochs"] == 2
    assert load_checkpoint(run_dir / "last.pt").training["epochs"] == 2


@pytest.mark.usefixtures("loaded")
def test_what_is_wrong_is_told_in_one_line_that_names_the_key(config: Path, tmp_path: Path) -> None:
    wrong: list[tuple[tuple[object, ...], int, str]] = [
        (("--set", "model.poling=max"), 1, "run.toml: model.poling: no such key; is pooling meant?"),
        (("--set", "batches.batch_size=0"), 1, "run.toml: batches.batch_size: expected `int` >= 1"),
        (("--set", "model.dimension=9"), 1, "dimension is 9, but the teacher's vectors have 8"),
        (("--pooling", "max", "--attention-heads", 2), 2, "--attention-heads is for --pooling attention, not for"),
        (("--set", "model.cell=gru", "--forget-bias", 1), 2, "--forget-bias is for --cell lstm, not for --cell gru"),
    ]
    for options, exit_code, message in wrong:
        result = invoke(tmp_path / "run", "--config", config, *options)
        assert result.exit_code == exit_code, result.output
        assert message in result.output
        assert "Traceback" not in result.output


@pytest.mark.usefixtures("loaded")
def test_resuming_where_no_run_is_says_so(tmp_path: Path) -> None:
    result = invoke(tmp_path / "run", "--resume")
    assert result.exit_code == 1
    assert "config.toml: no such file; there is nothing to resume (leave --resume out to start)" in result.output
