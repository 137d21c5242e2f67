import dataclasses
import errno
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoints import language_model_checkpoint, saved, sentence_encoder_checkpoint
from hiddenstate_exporter.graphs.graph import write_language_model_graphs
from hiddenstate_exporter.graphs.weights import Weights, WeightsFile
from hiddenstate_exporter.publishing import build, measurement
from hiddenstate_exporter.publishing.export import ExportError, ExportOptions, export
from hiddenstate_exporter.publishing.measurement import Data, Margin
from hiddenstate_exporter.publishing.publication import PublicationError
from hiddenstate_exporter.training.checkpoint import Checkpoint, CheckpointError
from hiddenstate_server.bundle import load_bundle

pytestmark = pytest.mark.usefixtures("small_grid")

CHECKPOINTS = [language_model_checkpoint(), sentence_encoder_checkpoint()]


def _export(checkpoint: Checkpoint, folder: Path, **options: Any) -> Path:
    return export(saved(checkpoint, folder), ExportOptions(to=folder / "models", **options))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.kind)
def test_a_checkpoint_becomes_a_bundle_that_loads(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = _export(checkpoint, tmp_path, license="Apache-2.0")
    bundle = load_bundle(folder)
    assert folder == tmp_path / "models" / "run" / "1"  # named after the folder of the checkpoint
    assert (bundle.name, bundle.version, bundle.kind) == ("run", "1", checkpoint.kind)
    assert bundle.variants["fp32"].parity.worst <= bundle.variants["fp32"].parity.tolerance == 1e-4
    assert bundle.metrics == checkpoint.metrics
    assert bundle.training.command == checkpoint.training["command"]
    assert bundle.license == "Apache-2.0"
    assert bundle.parameters < sum(tensor.numel() for tensor in checkpoint.model.values()) + 1
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("# run 1\n")


def test_the_state_of_a_language_model_is_described(tmp_path: Path) -> None:
    spec = load_bundle(_export(language_model_checkpoint(), tmp_path)).language_model
    assert spec is not None
    assert (spec.state_size, spec.output_offset, spec.output_size) == (64, 32, 16)
    assert (spec.bos_token_id, spec.eos_token_id, spec.unk_token_id, spec.special_token_ids) == (0, 0, 1, (0, 1))


def test_every_part_of_an_architecture_is_described(tmp_path: Path) -> None:
    model = load_bundle(_export(language_model_checkpoint(cell="gru", connections="highway"), tmp_path, name="lm"))
    assert str(model.architecture) == "GRU 2x16, embedding 8 (tied) with highway connections"
    assert model.language_model is not None
    assert (model.language_model.state_size, model.language_model.output_offset) == (48, 32)
    fields = {"cell": "rnn", "connections": "dense", "pooling": "attention", "bidirectional": False}
    encoder = load_bundle(_export(sentence_encoder_checkpoint(**fields), tmp_path, name="encoder"))
    assert str(encoder.architecture) == "RNN 2x10, embedding 8 with dense connections and attention pooling"


def test_a_model_without_a_projection_is_exported(tmp_path: Path) -> None:
    checkpoint = language_model_checkpoint(hidden_size=8, embedding_size=8, num_layers=1)
    assert "projection.weight" not in checkpoint.model
    spec = load_bundle(_export(checkpoint, tmp_path)).language_model
    assert spec is not None
    assert (spec.state_size, spec.output_offset, spec.output_size) == (16, 0, 8)


def test_equal_checkpoints_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (_files(_export(language_model_checkpoint(), tmp_path / name)) for name in "ab")
    assert first == second


def test_float32_keeps_every_bit_at_twice_the_size(tmp_path: Path) -> None:
    half, full = (
        _export(language_model_checkpoint(), tmp_path, name=dtype, dtype=dtype) for dtype in ("float16", "float32")
    )
    assert load_bundle(full).dtype == "float32"
    assert (full / "weights.bin").stat().st_size > 1.8 * (half / "weights.bin").stat().st_size


def test_each_export_is_a_new_version(tmp_path: Path) -> None:
    versions = [_export(language_model_checkpoint(), tmp_path, name="lm").name for _ in range(2)]
    assert versions == ["1", "2"]


def test_a_version_that_exists_is_not_touched(tmp_path: Path) -> None:
    folder = _export(language_model_checkpoint(), tmp_path, version="7")
    before = _files(folder)
    with pytest.raises(PublicationError, match="exists"):
        _export(sentence_encoder_checkpoint(), tmp_path, version="7")
    assert _files(folder) == before


def test_a_version_that_servers_would_pass_over_is_told_before_it_is_built(tmp_path: Path) -> None:
    path = saved(language_model_checkpoint(), tmp_path)
    for version, first in (
        ("1", "building lm 1 "),
        ("nightly", "warning: servers will take version 1 and not nightly"),
    ):
        lines: list[str] = []
        export(path, ExportOptions(to=tmp_path / "models", name="lm", version=version), echo=lines.append)
        assert lines[0].startswith(first)
        assert lines[-1].endswith(f"{version}: written")


def test_check_says_everything_and_writes_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    path = saved(language_model_checkpoint(), tmp_path)
    target = export(path, ExportOptions(to=tmp_path / "models", check=True), echo=lines.append)
    assert not (tmp_path / "models").exists()
    assert lines[0].startswith("building ")
    assert lines[1] == "model: language model, LSTM 2x16, embedding 8 (tied), 4,642 parameters"
    assert lines[-1] == f"{target}: would be written (nothing was: --check)"
    assert any(line.startswith("parity of fp32 graphs with PyTorch: differs by at most") for line in lines)


def test_check_refuses_what_an_export_would_refuse(tmp_path: Path) -> None:
    checkpoint = language_model_checkpoint()
    _export(checkpoint, tmp_path, version="1")
    with pytest.raises(PublicationError, match="exists"):
        _export(checkpoint, tmp_path, version="1", check=True)


def test_graphs_that_differ_from_pytorch_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_wrong(folder: Path, weights: Weights, *args: Any, **kwargs: Any) -> dict[str, str]:
        negated = {**weights, "rnn.weight_hh_l1": -weights["rnn.weight_hh_l1"]}
        return write_language_model_graphs(folder, negated, *args, **kwargs)

    monkeypatch.setattr(build, "write_language_model_graphs", write_wrong)
    for check in (False, True):
        with pytest.raises(ExportError) as refusal:
            _export(language_model_checkpoint(), tmp_path, check=check)
        case = r"\(batch 1, seq 1, equal lengths, random initial state\)"  # the first in which that weight counts
        assert re.search(
            rf"best\.pt: outputs: differs from PyTorch by 0\.\d+, allowed is 0\.0001 {case}$", str(refusal.value)
        )
    assert not (tmp_path / "models").exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(file: WeightsFile, folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(WeightsFile, "write", write_half)
    with pytest.raises(PublicationError, match="the disk is full"):
        _export(language_model_checkpoint(), tmp_path)
    assert not (tmp_path / "models").exists()


def test_the_bundle_is_measured_on_given_text_and_carries_the_numbers(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the car is new\n" * 300, encoding="utf-8")
    folder = _export(language_model_checkpoint(), tmp_path, dtype="float32", data=Data(sources=[str(text)]))
    metrics = load_bundle(folder).metrics
    assert metrics.keys() == {"perplexity", "top1_accuracy", "top3_accuracy", "unk_rate"}
    assert metrics["perplexity"] != 12.5
    assert f"| Perplexity | {metrics['perplexity']:.2f} |" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_bundle_that_predicts_worse_than_its_checkpoint_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the car is new\n" * 300, encoding="utf-8")
    monkeypatch.setitem(measurement.MARGINS, "fp32", Margin(perplexity=1e-9, spearman=1e-9))
    with pytest.raises(ExportError, match="perplexity is"):
        _export(language_model_checkpoint(), tmp_path, data=Data(sources=[str(text)]))
    assert not (tmp_path / "models").exists()


def test_a_number_that_json_cannot_hold_is_left_out(tmp_path: Path) -> None:
    checkpoint = dataclasses.replace(
        sentence_encoder_checkpoint(), metrics={"sts_dev_spearman": float("nan"), "valid_cosine_to_teacher": 0.9}
    )
    assert load_bundle(_export(checkpoint, tmp_path)).metrics == {"valid_cosine_to_teacher": 0.9}


def _without(mapping: Any, name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "missing tensor": (
        {"model": _without(language_model_checkpoint().model, "rnn.bias_hh_l1")},
        r"tensor 'rnn\.bias_hh_l1' is missing",
    ),
    "not a number": (
        {"model": {**language_model_checkpoint().model, "decoder.bias": torch.full((74,), torch.nan)}},
        r"tensor 'decoder\.bias' holds values that are not finite",
    ),
    "bidirectional language model": (
        {"config": {**language_model_checkpoint().config, "bidirectional": True}},
        "bidirectional",
    ),
    "another vocabulary": (
        {"config": {**language_model_checkpoint().config, "vocab_size": 75}},
        r"tokenizer has 74 tokens, but config\.vocab_size is 75",
    ),
    "no tokenizer": ({"tokenizer": "{}"}, "tokenizer: not a tokenizer"),
    "no record of training": ({"training": {"data": "x"}}, "training: .*command"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_one_line_that_names_it(tmp_path: Path, damage: str) -> None:
    fields, message = DAMAGE[damage]
    with pytest.raises(ExportError, match=message) as refusal:
        _export(dataclasses.replace(language_model_checkpoint(), **fields), tmp_path)
    assert str(refusal.value).startswith(str(tmp_path / "run" / "best.pt"))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "models").exists()


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        export(tmp_path / "best.pt", ExportOptions(to=tmp_path / "models"))
