import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bundles import language_model_bundle
from checkpoints import language_model_checkpoint, saved, sentence_encoder_checkpoint
from hiddenstate_exporter.cli import evaluate, export
from hiddenstate_exporter.publishing.measurement import Data
from hiddenstate_server.bundle import load_bundle
from variant_bundles import int8_language_model_bundle


def _export(*arguments: object) -> Result:
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


def _evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


@pytest.mark.parametrize("command", ["export", "import_", "evaluate"])
def test_help_is_shown_without_importing_torch(command: str) -> None:
    code = (
        "import sys; from hiddenstate_exporter import cli; "
        f"cli.{command}(['--help'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "Examples:" in shown


@pytest.mark.usefixtures("small_grid")
def test_export_publishes_under_the_given_name(tmp_path: Path) -> None:
    path = saved(language_model_checkpoint(), tmp_path)
    result = _export(path, "--to", tmp_path / "models", "--name", "lm", "--version", "2024.1", "--license", "MIT")
    assert result.exit_code == 0, result.output
    assert result.output.endswith(f"{tmp_path / 'models' / 'lm' / '2024.1'}: written\n")
    assert load_bundle(tmp_path / "models" / "lm" / "2024.1").license == "MIT"


@pytest.mark.usefixtures("small_grid")
def test_export_with_check_leaves_no_trace(tmp_path: Path) -> None:
    path = saved(sentence_encoder_checkpoint(), tmp_path)
    result = _export(path, "--to", tmp_path / "models", "--check")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("small_grid")
@pytest.mark.parametrize(
    "options",
    [
        ["missing.pt"],
        ["best.pt", "--name", "a b"],
        ["best.pt", "--data", "no.txt"],
        ["best.pt", "--sts", "pairs.csv"],
        ["best.pt", "--variants", "fp32,fp16"],
    ],
)
def test_a_refused_export_is_one_line_and_exit_code_1_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    saved(language_model_checkpoint(), tmp_path)
    monkeypatch.chdir(tmp_path / "run")
    result = _export(*options, "--to", "models")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not Path("models").exists()


def test_evaluate_prints_the_bundle_and_its_checkpoint_side_by_side(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the car is new\n" * 100, encoding="utf-8")
    bundle = language_model_bundle(tmp_path, dtype="float32")
    path = saved(language_model_checkpoint(), tmp_path)
    result = _evaluate(bundle, "--data", text, "--part", "all", "--checkpoint", path)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if "Perplexity" in line]
    _, onnx, torch = [cell.strip() for cell in line.strip("│").split("│")]
    assert float(onnx) == pytest.approx(float(torch), rel=1e-3)


def test_evaluate_fails_when_the_bundle_is_not_of_the_checkpoint(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the car is new\n" * 100, encoding="utf-8")
    bundle = language_model_bundle(tmp_path, seed=1)
    path = saved(language_model_checkpoint(), tmp_path)
    result = _evaluate(bundle, "--data", text, "--part", "all", "--checkpoint", path)
    assert result.exit_code == 1
    assert "Error: perplexity is" in result.output


def test_evaluate_names_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    result = _evaluate(tmp_path, "--data", "x.txt")
    assert result.exit_code == 1
    assert "bundle.json: no such file" in result.output


@pytest.mark.parametrize(
    ("variants", "problem"),
    [("fp32,bf16", "'bf16' is none of fp32, fp16, int8"), ("int8", "fp32 is missing"), ("fp16", "fp32 is missing")],
)
def test_variants_that_cannot_be_published_are_a_usage_error(tmp_path: Path, variants: str, problem: str) -> None:
    result = _export(tmp_path / "best.pt", "--to", tmp_path / "models", "--variants", variants)
    assert result.exit_code == 2
    assert problem in " ".join(result.output.split())


@pytest.mark.usefixtures("small_grid")
def test_int8_is_refused_with_the_flag_that_it_needs(tmp_path: Path) -> None:
    path = saved(language_model_checkpoint(), tmp_path)
    result = _export(path, "--to", tmp_path / "models", "--variants", "fp32,int8")
    assert result.exit_code == 1
    assert "give text that training held out with --data" in result.output
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("small_grid")
def test_export_publishes_the_variants_that_are_asked_for(tmp_path: Path, text: Data) -> None:
    path, models = saved(language_model_checkpoint(), tmp_path), tmp_path / "models"
    data = ["--data", *text.sources, "--part", text.part]
    result = _export(path, "--to", models, "--name", "lm", "--variants", "fp32, fp16", *data)
    assert result.exit_code == 0, result.output
    assert list(load_bundle(models / "lm" / "1").variants) == ["fp32", "fp16"]
    measured = _evaluate(models / "lm" / "1", *data, "--variant", "fp16")
    assert measured.exit_code == 0, measured.output
    assert "lm 1 fp16" in measured.output


def test_evaluate_measures_the_variant_that_is_asked_for(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the car is new\n" * 100, encoding="utf-8")
    bundle = int8_language_model_bundle(tmp_path)
    fp32, int8 = (_evaluate(bundle, "--data", text, "--part", "all", "--variant", name) for name in ("fp32", "int8"))
    assert int8.exit_code == 0, int8.output
    assert "tiny-lm 1 int8" in int8.output
    assert int8.output.splitlines()[4:] != fp32.output.splitlines()[4:]
    missing = _evaluate(bundle, "--data", text, "--part", "all", "--variant", "fp16")
    assert missing.exit_code == 1
    assert "the bundle has no variant fp16, only fp32, int8" in missing.output
