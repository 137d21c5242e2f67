"""Descriptions that contradict the weights or the vocabulary are refused by the field or the tensor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from foreign_models import (
    WORDS,
    PlainEncoder,
    PlainLanguageModel,
    encoder_description,
    language_model_description,
    made,
)
from hiddenstate_exporter.foreign.conversion import convert
from hiddenstate_exporter.foreign.description import Description, DescriptionError
from hiddenstate_exporter.publishing.checkpoint_model import language_model_of, sentence_encoder_of
from hiddenstate_exporter.training.checkpoint import Checkpoint

Tensors = Mapping[str, Tensor]

LSTM = made(PlainLanguageModel("lstm")).state_dict()
ENCODER = made(PlainEncoder("gru", pooling="mean", dimension=7, normalized=True)).state_dict()
UNUSED = ["attend.*"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the words are."""
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return tmp_path


def _convert(description: Mapping[str, Any], tensors: Tensors, folder: Path) -> Checkpoint:
    read: Description = msgspec.convert(description, Description)
    return convert(read, tensors, folder, command="hiddenstate import a b")


def _without(tensors: Tensors, *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def test_the_parts_of_a_language_model_are_found(folder: Path) -> None:
    checkpoint = _convert(language_model_description("lstm", num_layers=2, vocab_size=30), LSTM, folder)
    config = language_model_of(checkpoint).config
    assert (config.cell, config.embedding_size, config.hidden_size, config.num_layers) == ("lstm", 12, 10, 2)
    assert (config.tied, config.has_projection, config.features_size) == (False, False, 10)
    assert checkpoint.special_words == {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    assert checkpoint.training["command"] == "hiddenstate import a b"


def test_the_parts_of_an_encoder_are_found(folder: Path) -> None:
    description = encoder_description("gru", projection="top", ignore=UNUSED, max_seq_length=9, normalized=True)
    config = sentence_encoder_of(_convert(description, ENCODER, folder)).config
    assert (config.bidirectional, config.dimension, config.max_seq_length, config.normalized) == (True, 7, 9, True)


def test_one_table_for_embedding_and_decoder_is_recognised(folder: Path) -> None:
    tied = dict(made(PlainLanguageModel("rnn", hidden_size=12)).state_dict())
    tied["decoder.weight"] = tied["encoder.weight"]
    for given in ({}, {"tied": True}):
        checkpoint = _convert(language_model_description("rnn", **given), tied, folder)
        assert language_model_of(checkpoint).config.tied
    once = _convert(language_model_description("rnn", tied=True), _without(tied, "decoder.weight"), folder)
    assert torch.equal(once.model["decoder.weight"], tied["encoder.weight"])


def test_layers_without_bias_get_zeros(folder: Path) -> None:
    bare = made(PlainLanguageModel("gru", bias=False)).state_dict()
    model = language_model_of(_convert(language_model_description("gru"), bare, folder))
    biases = [tensor for name, tensor in model.state_dict().items() if ".bias" in name]
    assert len(biases) == 5
    assert not any(bias.any() for bias in biases)


def test_other_names_are_given_by_renaming(folder: Path) -> None:
    cell = made(nn.GRUCell(12, 10)).state_dict()
    tensors = {f"dec_{name}": tensor for name, tensor in cell.items()}
    tensors |= {"fc_w": LSTM["decoder.weight"], "fc_b": LSTM["decoder.bias"], "emb": LSTM["encoder.weight"]}
    rename = {f"dec_{name}": f"rnn.{name}_l0" for name in cell} | {"fc_w": "decoder.weight", "fc_b": "decoder.bias"}
    checkpoint = _convert(language_model_description("gru", embedding="emb", rename=rename), tensors, folder)
    assert torch.equal(checkpoint.model["rnn.weight_hh_l0"], cell["weight_hh"])


def test_half_precision_is_widened(folder: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in LSTM.items()}
    checkpoint = _convert(language_model_description("lstm"), half, folder)
    assert {tensor.dtype for tensor in checkpoint.model.values()} == {torch.float32}


LANGUAGE_MODEL_PROBLEMS: dict[str, tuple[dict[str, Any], Tensors, str]] = {
    "sizes": ({"hidden_size": 11}, LSTM, "hidden_size: is 11, but that of the weights is 10"),
    "layers": ({"num_layers": 3}, LSTM, "num_layers: is 3, but that of the weights is 2"),
    "vocabulary size": ({"vocab_size": 31}, LSTM, "vocab_size: is 31, but that of the weights is 30"),
    "embedding": ({"embedding_size": 13}, LSTM, "embedding_size: is 13, but that of the weights is 12"),
    "cell": ({"cell": "gru"}, LSTM, r"cell: is \"gru\", but tensor 'rnn.weight_hh_l0' .* that of a cell LSTM"),
    "no cell": (
        {},
        {**LSTM, "rnn.weight_ih_l0": torch.zeros(15, 12), "rnn.weight_hh_l0": torch.zeros(15, 10)},
        r"'rnn.weight_hh_l0' of shape \[15, 10\] is that of no known cell",
    ),
    "words": ({"vocabulary": {"words": WORDS[:-1]}}, LSTM, "vocabulary: has 29 words, but the embedding has 30 rows"),
    "both directions": ({"bidirectional": True}, LSTM, "bidirectional: a bidirectional language model reads the next"),
    "both directions in the weights": (
        {"embedding": "table", "rnn": "layers", "cell": "gru"},
        {**_without(ENCODER, "top.weight", "top.bias"), "decoder.weight": torch.zeros(30, 20)},
        "'layers.weight_ih_l0_reverse': a bidirectional language model reads the next word",
    ),
    "missing": (
        {},
        _without(LSTM, "rnn.bias_hh_l1"),
        r"tensor 'rnn.bias_hh_l1' is missing; there are: encoder.weight,",
    ),
    "a layer missing": (
        {},
        {n.replace("_l1", "_l2"): t for n, t in LSTM.items()},
        "tensor 'rnn.weight_ih_l1' is missing",
    ),
    "another name": ({"decoder": "fc"}, LSTM, "tensor 'fc.weight' is missing"),
    "no such module": ({"rnn": "lstm"}, LSTM, "tensor 'lstm.weight_ih_l0' is missing"),
    "left over": (
        {},
        {**LSTM, "norm.weight": torch.ones(2), "norm.bias": torch.ones(2)},
        "tensor 'norm.weight' is not part of the model described .2 left over: norm.weight, norm.bias.; .* \"ignore\"",
    ),
    "nothing to ignore": ({"ignore": ["norm.*"]}, LSTM, r"ignore: there is no tensor 'norm\.\*'"),
    "nothing to rename": ({"rename": {"a": "b"}}, LSTM, "rename: there is no tensor 'a'"),
    "renamed onto another": (
        {"rename": {"decoder.bias": "decoder.weight"}},
        LSTM,
        "rename: two tensors would be called 'decoder.weight'",
    ),
    "decoder": (
        {},
        {**LSTM, "decoder.weight": torch.zeros(30, 9)},
        r"'decoder.weight' has shape \[30, 9\], .* \[30, 10\]",
    ),
    "more words in the decoder": (
        {},
        {**LSTM, "decoder.weight": torch.zeros(31, 10)},
        r"'decoder.weight' has shape \[31, 10\], expected \[30, 10\]",
    ),
    "axes": ({}, {**LSTM, "decoder.bias": torch.zeros(30, 1)}, r"'decoder.bias' has shape \[30, 1\], expected \[30\]"),
    "second layer": (
        {},
        {**LSTM, "rnn.weight_ih_l1": torch.zeros(40, 12)},
        r"'rnn.weight_ih_l1' has shape \[40, 12\], expected \[40, 10\]",
    ),
    "embedding width": (
        {},
        {**LSTM, "encoder.weight": torch.zeros(30, 8)},
        "tensor 'encoder.weight' has rows of 8 components, but 'rnn.weight_ih_l0' reads 12",
    ),
    "not tied": ({"tied": True}, LSTM, "tied: is true, but 'decoder.weight' is not the embedding's table"),
    "whole numbers": ({}, {**LSTM, "decoder.bias": torch.zeros(30, dtype=torch.int8)}, "'decoder.bias' is torch.int8"),
    "not finite": (
        {},
        {**LSTM, "decoder.bias": torch.full((30,), torch.nan)},
        "tensor 'decoder.bias' holds values that are not finite",
    ),
    "projected states": (
        {},
        {**LSTM, "rnn.weight_hr_l0": torch.zeros(5, 10)},
        "'rnn.weight_hr_l0': an LSTM with proj_size cannot be imported",
    ),
    "too many layers": (
        {},
        {**LSTM, **{n.replace("_l1", f"_l{k}"): t for k in range(2, 9) for n, t in LSTM.items() if "_l1" in n}},
        "num_layers is 9, must be 1 to 8",
    ),
    "no adaptive softmax": (
        {"head": "adaptive_softmax"},
        LSTM,
        "tensor 'decoder.tail.0.0.weight' is missing",
    ),
}


@pytest.mark.parametrize("problem", LANGUAGE_MODEL_PROBLEMS)
def test_a_language_model_that_is_not_as_described_is_refused(folder: Path, problem: str) -> None:
    fields, tensors, message = LANGUAGE_MODEL_PROBLEMS[problem]
    with pytest.raises(DescriptionError, match=message) as error:
        _convert(language_model_description("lstm") | fields, tensors, folder)
    assert "\n" not in str(error.value)


ENCODER_PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "projection left out": ({}, "tensor 'top.weight' is not part of the model described"),
    "dimension": ({"projection": "top", "dimension": 8}, "dimension: is 8, but that of the weights is 7"),
    "direction": (
        {"projection": "top", "bidirectional": False},
        "bidirectional: is false, but that of the weights is true",
    ),
    "attention": (
        {"projection": "top", "ignore": [], "pooling": "attention", "attention": ["attend.0", "attend.2"]},
        r"tensor 'top.weight' has shape \[7, 20\], expected \[any, 60\]",
    ),
    "attention swapped": (
        {"projection": "top", "ignore": [], "pooling": "attention", "attention": ["attend.2", "attend.0"]},
        r"tensor 'attend.2.weight' has shape \[3, 6\], expected \[any, 20\]",
    ),
}


@pytest.mark.parametrize("problem", ENCODER_PROBLEMS)
def test_an_encoder_that_is_not_as_described_is_refused(folder: Path, problem: str) -> None:
    fields, message = ENCODER_PROBLEMS[problem]
    with pytest.raises(DescriptionError, match=message):
        _convert(encoder_description("gru", ignore=UNUSED) | fields, ENCODER, folder)


class _Adaptive(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        plain = PlainLanguageModel("lstm")
        self.encoder, self.rnn = plain.encoder, plain.rnn
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(10, len(WORDS), [8, 20], div_value=2.0, **options)


@pytest.mark.parametrize("head_bias", [False, True])
def test_an_adaptive_softmax_keeps_its_clusters(folder: Path, head_bias: bool) -> None:
    plain = made(_Adaptive(head_bias=head_bias))
    fields = {"head": "adaptive_softmax", "decoder": "softmax", "div_value": 2}
    checkpoint = _convert(language_model_description("lstm", **fields), plain.state_dict(), folder)
    model = language_model_of(checkpoint)
    assert model.config.cutoffs == (8, 20)
    rows = torch.randn(5, 10)
    assert isinstance(plain, _Adaptive)
    torch.testing.assert_close(model.decoder(rows), plain.softmax.log_prob(rows))


def test_an_adaptive_softmax_of_another_div_value_is_refused(folder: Path) -> None:
    fields = {"head": "adaptive_softmax", "decoder": "softmax"}
    with pytest.raises(DescriptionError, match=r"div_value: is 4, which makes the vectors of .* 2 wide; .* are 5"):
        _convert(language_model_description("lstm", **fields), made(_Adaptive()).state_dict(), folder)
