"""Publishing int8 graphs beside the float32 ones: what is checked before, and what happens if it fails."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from checkpoints import exported, language_model_checkpoint, sentence_encoder_checkpoint
from hiddenstate_exporter.publishing import int8_variant, measurement, reference
from hiddenstate_exporter.publishing.activation_bounds import BoundError
from hiddenstate_exporter.publishing.export import ExportError
from hiddenstate_exporter.publishing.invariance import InvarianceError
from hiddenstate_exporter.publishing.measurement import Data, Margin, MeasurementError
from hiddenstate_exporter.publishing.parity import ParityError
from hiddenstate_exporter.publishing.variant import VariantError
from hiddenstate_exporter.training.checkpoint import Checkpoint
from hiddenstate_server.bundle import load_bundle

pytestmark = pytest.mark.usefixtures("small_grid")

INT8_FILES = {"weights.int8.bin", "recurrent.int8.onnx", "head.int8.onnx"}


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("variants", [(), ("fp32", "int8")])
def test_a_language_model_gets_int8_graphs_and_their_numbers(
    tmp_path: Path, text: Data, variants: tuple[str, ...]
) -> None:
    folder, lines = exported(language_model_checkpoint(), tmp_path, data=text, variants=variants)
    bundle = load_bundle(folder)
    int8 = bundle.variants["int8"]
    assert _files(folder) >= INT8_FILES
    assert set(bundle.files) >= INT8_FILES
    assert int8.metrics["perplexity"] == pytest.approx(bundle.metrics["perplexity"], rel=0.01)
    assert int8.metrics["perplexity"] != bundle.metrics["perplexity"]
    assert int8.parity.mean is not None
    assert 0 < int8.parity.mean < int8.parity.worst < int8.parity.tolerance
    assert int8.activation_bounds == {"rnn.l0.h": 1, "rnn.l1.h": 1, "hidden": 1, "projection.steps": 127}
    assert [(part.offset, part.size) for part in int8.state_bounds] == [(0, 16), (32, 16)]
    assert any(line.startswith("parity of int8 graphs") for line in lines)
    assert any(line.startswith("metrics of int8 graphs: perplexity") for line in lines)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| Perplexity | {bundle.metrics['perplexity']:.2f} | {int8.metrics['perplexity']:.2f} |" in card


def test_a_sentence_encoder_gets_int8_graphs_and_their_numbers(
    tmp_path: Path, pairs: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random vectors of few components are nearly as like as unlike: their ranks hang on the last digits.
    monkeypatch.setitem(measurement.MARGINS, "int8", Margin(perplexity=0, spearman=0.1))
    folder, _ = exported(sentence_encoder_checkpoint(), tmp_path, data=pairs)
    bundle = load_bundle(folder)
    int8 = bundle.variants["int8"]
    assert int8.metrics["sts_dev_spearman"] == pytest.approx(bundle.metrics["sts_dev_spearman"], abs=0.1)
    assert not int8.state_bounds
    assert int8.activation_bounds.keys() >= {"rnn.l0.h", "rnn.l0_reverse.h", "rnn.l1.h", "rnn.l1_reverse.h"}


@pytest.mark.parametrize(
    ("checkpoint", "flag"), [(language_model_checkpoint(), "--data"), (sentence_encoder_checkpoint(), "--sts")]
)
def test_without_data_int8_is_not_published_and_the_flag_is_named(
    tmp_path: Path, checkpoint: Checkpoint, flag: str
) -> None:
    folder, lines = exported(checkpoint, tmp_path)
    assert list(load_bundle(folder).variants) == ["fp32"]
    assert any(line.startswith("int8 graphs: not published: ") and line.endswith(flag) for line in lines)
    with pytest.raises(MeasurementError, match=f"beside fp32 is published once it has been measured: .*{flag}"):
        exported(checkpoint, tmp_path / "asked", variants=("fp32", "int8"))
    assert not (tmp_path / "asked" / "models").exists()


def test_fp32_alone_can_be_asked_for(tmp_path: Path, text: Data) -> None:
    folder, lines = exported(language_model_checkpoint(), tmp_path, data=text, variants=("fp32",))
    assert list(load_bundle(folder).variants) == ["fp32"]
    assert not [line for line in lines if "int8" in line]


def _too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measurement.MARGINS, "int8", Margin(perplexity=1e-9, spearman=0))


def _refusing(module: ModuleType, name: str, error: Exception) -> Callable[[pytest.MonkeyPatch], None]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    return lambda monkeypatch: monkeypatch.setattr(module, name, refuse)


FAILURES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "perplexity is .* with int8 graphs but .* with float32 graphs": _too_far,
    "next_state: row 1 alone": _refusing(
        int8_variant, "check_language_model_invariance", InvarianceError("next_state: row 1 alone")
    ),
    "hidden of the graph": _refusing(
        int8_variant, "check_activation_bounds", BoundError("hidden of the graph head reaches 2")
    ),
    "outputs: differs": _refusing(
        reference, "check_language_model", ParityError("outputs: differs from PyTorch by 1.2")
    ),
}


@pytest.mark.parametrize("message", FAILURES)
def test_int8_that_fails_a_check_leaves_the_float32_bundle_and_the_reason(
    tmp_path: Path, text: Data, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    FAILURES[message](monkeypatch)
    folder, lines = exported(language_model_checkpoint(), tmp_path, data=text)
    plain, _ = exported(language_model_checkpoint(), tmp_path / "plain", data=text, variants=("fp32",))
    assert {name: (folder / name).read_bytes() for name in _files(folder)} == {
        name: (plain / name).read_bytes() for name in _files(plain)
    }
    assert any(line.startswith("int8 graphs: not published: ") for line in lines)
    with pytest.raises(ExportError, match=f"int8 graphs: {message}"):
        exported(language_model_checkpoint(), tmp_path / "asked", data=text, variants=("fp32", "int8"))
    assert not (tmp_path / "asked" / "models").exists()


def test_check_says_whether_int8_would_be_published(tmp_path: Path, text: Data) -> None:
    _, lines = exported(language_model_checkpoint(), tmp_path, data=text, check=True)
    assert any(line.startswith("metrics of int8 graphs: perplexity") for line in lines)
    assert not (tmp_path / "models").exists()


def test_equal_checkpoints_give_equal_bytes(tmp_path: Path, text: Data) -> None:
    first, second = (exported(language_model_checkpoint(), tmp_path / name, data=text)[0] for name in "ab")
    assert {name: (first / name).read_bytes() for name in _files(first)} == {
        name: (second / name).read_bytes() for name in _files(second)
    }


def test_the_fold_limit_reaches_the_graphs(tmp_path: Path, text: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measurement.MARGINS, "int8", Margin(perplexity=0.1, spearman=0))
    folder, _ = exported(language_model_checkpoint(), tmp_path, data=text, fold_limit=0)
    bounds = load_bundle(folder).variants["int8"].activation_bounds
    assert len(bounds) == 5  # the embedding is quantised too


def test_a_transformer_has_no_int8_graphs_and_is_told_why(tmp_path: Path, text: Data) -> None:
    folder, _ = exported(language_model_checkpoint(), tmp_path)
    bundle = load_bundle(folder)
    transformer = msgspec.structs.replace(bundle.architecture, cell="transformer")
    with pytest.raises(VariantError, match="only recurrent models have int8 graphs"):
        int8_variant.build_int8(
            folder, msgspec.structs.replace(bundle, architecture=transformer), language_model_checkpoint()
        )
