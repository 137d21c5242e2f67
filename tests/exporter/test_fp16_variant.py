"""Publishing float16 graphs beside the float32 ones: when they are made, and what is refused."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from checkpoints import exported, language_model_checkpoint, sentence_encoder_checkpoint
from hiddenstate_exporter.graphs.weights import WeightsError
from hiddenstate_exporter.publishing import fp16_variant, measurement
from hiddenstate_exporter.publishing.activation_bounds import BoundError
from hiddenstate_exporter.publishing.export import ExportError
from hiddenstate_exporter.publishing.fp16_variant import add_fp16, build_fp16
from hiddenstate_exporter.publishing.measurement import Data, Margin, MeasurementError
from hiddenstate_exporter.publishing.parity import ParityError
from hiddenstate_exporter.publishing.variant import VariantError
from hiddenstate_exporter.training.checkpoint import Checkpoint
from hiddenstate_server.bundle import load_bundle

pytestmark = pytest.mark.usefixtures("small_grid")

FP16 = ("fp32", "fp16")


def _scaled(checkpoint: Checkpoint, factors: Mapping[str, float]) -> Checkpoint:
    """Multiplies tensors."""
    model = {name: factors.get(name, 1) * tensor for name, tensor in checkpoint.model.items()}
    return dataclasses.replace(checkpoint, model=model)


def test_a_language_model_gets_float16_graphs_and_their_numbers(tmp_path: Path, text: Data) -> None:
    folder, lines = exported(language_model_checkpoint(), tmp_path, data=text, variants=FP16)
    bundle = load_bundle(folder)
    fp16 = bundle.variants["fp16"]
    assert list(bundle.variants) == ["fp32", "fp16"]
    assert fp16.graphs == {"recurrent": "recurrent.fp16.onnx", "head": "head.fp16.onnx"}
    assert fp16.metrics["perplexity"] == pytest.approx(bundle.metrics["perplexity"], rel=1e-3)
    assert fp16.metrics["perplexity"] != bundle.metrics["perplexity"]
    assert fp16.parity.mean is not None
    assert 0 < fp16.parity.mean < fp16.parity.worst < fp16.parity.tolerance == 0.25
    assert [part.bound for part in fp16.state_bounds] == [1, 65504, 1, 65504]
    assert any(line.startswith("parity of fp16 graphs with PyTorch: differs by at most") for line in lines)
    assert any(line.startswith("metrics of fp16 graphs: perplexity") for line in lines)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| Graphs | float32 and float16 |" in card
    assert f"| Perplexity | {bundle.metrics['perplexity']:.2f} | {fp16.metrics['perplexity']:.2f} |" in card
    assert "The fp16 graphs were compared with PyTorch in" in card


def test_a_sentence_encoder_gets_float16_graphs_and_their_numbers(
    tmp_path: Path, pairs: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random vectors of few components are nearly as like as unlike: their ranks hang on the last digits.
    monkeypatch.setitem(measurement.MARGINS, "fp16", Margin(perplexity=0, spearman=0.01))
    folder, _ = exported(sentence_encoder_checkpoint(), tmp_path, data=pairs, variants=FP16)
    fp16 = load_bundle(folder).variants["fp16"]
    assert fp16.metrics["sts_dev_spearman"] == pytest.approx(load_bundle(folder).metrics["sts_dev_spearman"], abs=0.01)
    assert 0 < fp16.parity.worst < fp16.parity.tolerance == 0.01
    assert not fp16.state_bounds


def test_float16_graphs_are_made_where_they_are_asked_for_only(tmp_path: Path, text: Data) -> None:
    folder, lines = exported(language_model_checkpoint(), tmp_path, data=text)
    assert list(load_bundle(folder).variants) == ["fp32", "int8"]
    assert not [line for line in lines if "fp16" in line]
    both, _ = exported(language_model_checkpoint(), tmp_path / "both", data=text, variants=("int8", "fp16", "fp32"))
    assert list(load_bundle(both).variants) == ["fp32", "fp16", "int8"]
    for name in ("weights.bin", "weights.int8.bin", "recurrent.int8.onnx", "head.onnx"):
        assert (both / name).read_bytes() == (folder / name).read_bytes()


def test_beside_weights_of_float32_a_bundle_lists_those_of_float16(tmp_path: Path, text: Data) -> None:
    folder, _ = exported(language_model_checkpoint(), tmp_path, data=text, variants=FP16, dtype="float32")
    bundle = load_bundle(folder)
    assert (bundle.dtype, "weights.fp16.bin" in bundle.files) == ("float32", True)
    assert bundle.variants["fp16"].parity.worst > bundle.variants["fp32"].parity.worst


def test_equal_checkpoints_give_equal_bytes(tmp_path: Path, text: Data) -> None:
    first, second = (
        exported(language_model_checkpoint(), tmp_path / name, data=text, variants=FP16)[0] for name in "ab"
    )
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


@pytest.mark.parametrize(
    ("checkpoint", "flag"), [(language_model_checkpoint(), "--data"), (sentence_encoder_checkpoint(), "--sts")]
)
def test_without_data_float16_is_refused_and_the_flag_is_named(
    tmp_path: Path, checkpoint: Checkpoint, flag: str
) -> None:
    with pytest.raises(MeasurementError, match=f"beside fp32 is published once it has been measured: .*{flag}"):
        exported(checkpoint, tmp_path, variants=FP16)
    assert not (tmp_path / "models").exists()


def _too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measurement.MARGINS, "fp16", Margin(perplexity=1e-9, spearman=0))


def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp16_variant, "FP16_TOLERANCE", 1e-6)


FAILURES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "perplexity is .* with fp16 graphs but .* with float32 graphs": _too_far,
    "differs from PyTorch by .*, allowed is 1e-06": _strict,
}


@pytest.mark.parametrize("message", FAILURES)
def test_float16_that_fails_a_check_is_an_error_and_leaves_nothing(
    tmp_path: Path, text: Data, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    checkpoint = language_model_checkpoint()
    plain, _ = exported(checkpoint, tmp_path / "plain", data=text, variants=("fp32",), dtype="float32")
    before = {path.name: path.read_bytes() for path in plain.iterdir()}
    FAILURES[message](monkeypatch)
    with pytest.raises(ValueError, match=message):
        add_fp16(plain, load_bundle(plain), checkpoint, text)
    assert {path.name: path.read_bytes() for path in plain.iterdir()} == before
    with pytest.raises(ExportError, match=f"fp16 graphs: .*{message}"):
        exported(checkpoint, tmp_path, data=text, variants=FP16)
    assert not (tmp_path / "models").exists()


OVERFLOWS: dict[str, tuple[Checkpoint, dict[str, float], str]] = {
    "a weight": (language_model_checkpoint(), {"decoder.bias": 1e7}, r"'decoder\.bias' .* too large for float16"),
    "a gate": (language_model_checkpoint(), {"rnn.weight_ih_l1": 1e4}, r"'rnn\.weight_ih_l1' .* can carry a gate"),
    "logits": (
        language_model_checkpoint(),
        {"projection.weight": 3e4},
        r"decoder\.weight, decoder\.bias of the graph head lead to values beyond 65,504",
    ),
    "a highway": (
        language_model_checkpoint(connections="highway"),
        {"rnn.highway_l1.weight": 3e4},
        r"rnn\.highway_l1\.weight of the graph recurrent lead to values beyond 65,504",
    ),
    "attention": (
        sentence_encoder_checkpoint(pooling="attention"),
        {"pooling.w1.weight": 1e2, "pooling.w2.weight": 2e4},
        r"pooling\.w2\.weight of the graph encoder lead to values beyond 65,504",
    ),
    "a vector": (
        sentence_encoder_checkpoint(pooling="last"),
        {"projection.weight": 2e4, "projection.bias": 3e5},
        r"projection\.weight, projection\.bias of the graph encoder lead to values beyond 65,504",
    ),
}


@pytest.mark.parametrize("what", OVERFLOWS)
def test_what_float16_cannot_hold_is_refused_by_the_names_of_its_tensors(tmp_path: Path, what: str) -> None:
    plain, changes, message = OVERFLOWS[what]
    folder, _ = exported(plain, tmp_path, dtype="float32")
    bundle = load_bundle(folder)
    build_fp16(folder, bundle, plain)
    with pytest.raises((WeightsError, BoundError), match=message):
        build_fp16(folder, bundle, _scaled(plain, changes))


def test_a_weight_that_float16_cannot_hold_ends_an_export(tmp_path: Path, text: Data) -> None:
    checkpoint = _scaled(language_model_checkpoint(), {"decoder.bias": 1e7})
    message = r"best\.pt: fp16 graphs: tensor 'decoder\.bias' holds values that are too large for float16"
    with pytest.raises(ExportError, match=message):
        exported(checkpoint, tmp_path, data=text, variants=FP16, dtype="float32")
    assert not (tmp_path / "models").exists()


def test_a_transformer_has_no_float16_graphs_and_is_told_why(tmp_path: Path) -> None:
    folder, _ = exported(language_model_checkpoint(), tmp_path)
    bundle = load_bundle(folder)
    transformer = msgspec.structs.replace(bundle.architecture, cell="transformer")
    with pytest.raises(VariantError, match="only recurrent models have float16 graphs"):
        build_fp16(folder, msgspec.structs.replace(bundle, architecture=transformer), language_model_checkpoint())


def test_a_graph_that_float16_parity_refuses_says_how_far_off_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _strict(monkeypatch)
    folder, _ = exported(language_model_checkpoint(), tmp_path)
    with pytest.raises(ParityError, match="outputs: differs from PyTorch by"):
        build_fp16(folder, load_bundle(folder), language_model_checkpoint())
