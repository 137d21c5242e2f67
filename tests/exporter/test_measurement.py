import dataclasses
from pathlib import Path

import pytest
import torch

from bundles import language_model_bundle, sentence_encoder_bundle
from checkpoints import language_model_checkpoint, sentence_encoder_checkpoint
from hiddenstate_exporter.publishing.measurement import Data, Measured, MeasurementError, check_nothing_lost, measure
from hiddenstate_server.bundle import load_bundle

SENTENCES = ["the car is new", "we had a new car", "they thank her for that", "what would she like", "not this time"]


def _text(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text("\n".join(SENTENCES * 40), encoding="utf-8")
    return path


def _pairs(folder: Path) -> Path:
    lines = [f"g\tf\ty\t{i}\t{i}.0\t{first}\t{SENTENCES[0]}" for i, first in enumerate(SENTENCES)]
    path = folder / "sts.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_language_model_is_measured_on_one_part_of_a_text(tmp_path: Path) -> None:
    folder = language_model_bundle(tmp_path)
    parts = {part: Data(sources=[str(_text(tmp_path))], part=part) for part in ("test", "train", "all")}
    numbers = [measure(folder, load_bundle(folder), data).onnx for data in parts.values()]
    assert all(number.keys() == {"perplexity", "top1_accuracy", "top3_accuracy", "unk_rate"} for number in numbers)
    assert len({number["perplexity"] for number in numbers}) == 3


def test_the_checkpoint_is_measured_with_its_weights_unrounded(tmp_path: Path) -> None:
    folder = language_model_bundle(tmp_path)
    data = Data(sources=[str(_text(tmp_path))], part="all")
    measured = measure(folder, load_bundle(folder), data, checkpoint=language_model_checkpoint())
    assert measured.torch["perplexity"] == pytest.approx(measured.onnx["perplexity"], rel=1e-2)
    assert measured.torch["perplexity"] != measured.onnx["perplexity"]


def test_a_sentence_encoder_is_measured_on_pairs(tmp_path: Path) -> None:
    folder = sentence_encoder_bundle(tmp_path, num_layers=2)
    data = Data(sts=_pairs(tmp_path))
    measured = measure(folder, load_bundle(folder), data, checkpoint=sentence_encoder_checkpoint())
    assert -1 <= measured.onnx["sts_dev_spearman"] <= 1
    assert measured.onnx == pytest.approx(measured.torch)


def test_data_of_the_wrong_sort_is_refused_with_the_option_to_give(tmp_path: Path) -> None:
    model, encoder = language_model_bundle(tmp_path), sentence_encoder_bundle(tmp_path)
    with pytest.raises(MeasurementError, match="give --data"):
        measure(model, load_bundle(model), Data(sts=_pairs(tmp_path)))
    with pytest.raises(MeasurementError, match="give --sts"):
        measure(encoder, load_bundle(encoder), Data(sources=[str(_text(tmp_path))]))


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = language_model_bundle(tmp_path)
    with pytest.raises(MeasurementError, match="checkpoint is a sentence_encoder, the bundle a language_model"):
        measure(folder, load_bundle(folder), Data(), checkpoint=sentence_encoder_checkpoint())


def test_a_perplexity_within_a_thousandth_is_accepted() -> None:
    check_nothing_lost(Measured({"perplexity": 100.09}, {"perplexity": 100.0}))
    check_nothing_lost(Measured({"perplexity": 100.0}, {}))


@pytest.mark.parametrize("perplexity", [100.11, 99.89, float("nan")])
def test_a_perplexity_further_off_is_refused(perplexity: float) -> None:
    with pytest.raises(MeasurementError, match=r"perplexity is .* with the bundle but 100 with the checkpoint"):
        check_nothing_lost(Measured({"perplexity": perplexity}, {"perplexity": 100.0}))


def test_a_correlation_further_off_is_refused() -> None:
    check_nothing_lost(Measured({"sts_dev_spearman": 0.7005}, {"sts_dev_spearman": 0.7}))
    with pytest.raises(MeasurementError, match="sts_dev_spearman"):
        check_nothing_lost(Measured({"sts_dev_spearman": 0.698}, {"sts_dev_spearman": 0.7}))


def test_another_model_than_the_bundle_came_from_is_seen(tmp_path: Path) -> None:
    folder = language_model_bundle(tmp_path)
    checkpoint = language_model_checkpoint()
    other = dataclasses.replace(checkpoint, model={**checkpoint.model, "decoder.bias": torch.linspace(-1, 1, 74)})
    measured = measure(folder, load_bundle(folder), Data(sources=[str(_text(tmp_path))]), checkpoint=other)
    with pytest.raises(MeasurementError):
        check_nothing_lost(measured)
