"""A checkpoint whose parts contradict each other is refused by the name of the field or tensor."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import STACKS
from checkpoints import language_model_checkpoint, sentence_encoder_checkpoint
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.graphs.weights import WeightsError
from hiddenstate_exporter.publishing.checkpoint_model import (
    count_parameters,
    language_model_of,
    round_model,
    sentence_encoder_of,
    weights_of,
)
from hiddenstate_exporter.training.checkpoint import Checkpoint, CheckpointError


def _with_config(checkpoint: Checkpoint, **fields: Any) -> Checkpoint:
    return dataclasses.replace(checkpoint, config={**checkpoint.config, **fields})


def _with_tensor(checkpoint: Checkpoint, name: str, tensor: Tensor | None) -> Checkpoint:
    tensors = {**checkpoint.model, name: tensor}
    return dataclasses.replace(checkpoint, model={n: t for n, t in tensors.items() if t is not None})


def test_a_language_model_comes_back_ready_to_be_compared() -> None:
    checkpoint = language_model_checkpoint()
    model = language_model_of(checkpoint)
    assert not model.training
    assert all(torch.equal(tensor, checkpoint.model[name]) for name, tensor in model.state_dict().items())


def test_parameters_that_are_shared_count_once() -> None:
    tied = language_model_of(language_model_checkpoint())
    untied = language_model_of(_with_config(language_model_checkpoint(), tied=False))
    assert count_parameters(untied) - count_parameters(tied) == tied.embedding.weight.numel()


def test_a_half_precision_checkpoint_is_widened() -> None:
    checkpoint = sentence_encoder_checkpoint()
    halved = dataclasses.replace(checkpoint, model={name: t.bfloat16() for name, t in checkpoint.model.items()})
    model = sentence_encoder_of(halved)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_rounding_a_model_keeps_its_shared_table_shared() -> None:
    model = language_model_of(language_model_checkpoint())
    round_model(model, "float16")
    assert model.decoder.weight is model.embedding.weight
    assert torch.equal(model.embedding.weight, model.embedding.weight.half().float())
    assert weights_of(model).keys() == model.state_dict().keys()


def test_a_model_that_half_precision_cannot_hold_is_refused() -> None:
    huge = _with_tensor(language_model_checkpoint(), "decoder.bias", torch.full((74,), 1e6))
    with pytest.raises(WeightsError, match=r"decoder\.bias.* too large for float16"):
        round_model(language_model_of(huge), "float16")


@pytest.mark.parametrize("name", ["embedding.weight", "rnn.weight_hh_l1", "projection.bias", "decoder.weight"])
def test_a_missing_tensor_is_named(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"tensor '{name}' is missing"):
        language_model_of(_with_tensor(language_model_checkpoint(), name, None))


def test_a_tensor_of_another_shape_is_named_with_both_shapes() -> None:
    cut = _with_tensor(sentence_encoder_checkpoint(), "projection.weight", torch.zeros(12, 10))
    with pytest.raises(CheckpointError, match=r"'projection\.weight' has shape \[12, 10\], .* asks for \[12, 20\]"):
        sentence_encoder_of(cut)


def test_a_tensor_that_belongs_to_another_model_is_named() -> None:
    more = _with_tensor(language_model_checkpoint(), "attention.weight", torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"tensor 'attention\.weight' does not belong"):
        language_model_of(more)


def test_a_tensor_of_integers_is_refused() -> None:
    integers = _with_tensor(language_model_checkpoint(), "decoder.bias", torch.zeros(74, dtype=torch.int8))
    with pytest.raises(CheckpointError, match=r"'decoder\.bias' is torch\.int8, not a floating-point type"):
        language_model_of(integers)


def test_a_config_that_contradicts_the_tensors_is_refused_without_making_a_model_of_its_size() -> None:
    absurd = _with_config(language_model_checkpoint(), hidden_size=2**24)
    with pytest.raises(CheckpointError, match=r"'rnn\.weight_ih_l0' has shape \[64, 8\], but the config asks for"):
        language_model_of(absurd)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": "gru"}, r"'rnn\.weight_hh_l0' has shape \[64, 16\], .* not that of a cell 'gru' but of LSTM"),
        ({"connections": "highway"}, r"'rnn\.highway_l1\.weight' is missing \(the stack is: LSTM 2x16.* highway"),
        ({"connections": "dense"}, r"'rnn\.weight_ih_l1' has shape \[64, 16\], expected \[64, 24\]"),
        ({"num_layers": 1}, r"'rnn\.weight_ih_l1' does not belong to a model of this config"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_architecture_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        language_model_of(_with_config(language_model_checkpoint(), **fields))


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_a_model_of_every_architecture_comes_back_from_its_own_state_dict(cell: Cell, connections: Connections) -> None:
    checkpoint = language_model_checkpoint(cell=cell, connections=connections)
    model = language_model_of(checkpoint)
    again = language_model_of(dataclasses.replace(checkpoint, model=model.state_dict()))
    weights = weights_of(again)
    assert weights.keys() == checkpoint.model.keys()
    assert all(torch.equal(torch.from_numpy(weights[name]), tensor) for name, tensor in checkpoint.model.items())


def test_a_config_of_the_first_release_is_still_read() -> None:
    checkpoint = language_model_checkpoint()
    old = ("vocab_size", "embedding_size", "hidden_size", "num_layers", "cell", "tied", "dropout", "bidirectional")
    first = dataclasses.replace(checkpoint, config={name: checkpoint.config[name] for name in old})
    assert language_model_of(first).config == language_model_of(checkpoint).config


def test_a_table_that_is_said_to_be_shared_must_be() -> None:
    other = _with_tensor(language_model_checkpoint(), "decoder.weight", torch.zeros(74, 8))
    with pytest.raises(CheckpointError, match=r"'decoder\.weight' differs from 'embedding\.weight', but config\.tied"):
        language_model_of(other)


def test_a_bidirectional_language_model_is_refused_with_the_reason() -> None:
    with pytest.raises(CheckpointError, match=r"config: .*bidirectional.* next word"):
        language_model_of(_with_config(language_model_checkpoint(), bidirectional=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": "qrnn"}, "config: cell"),
        ({"attention": 8}, r"config\.attention is not known"),
        ({"hidden_size": 0}, "config: hidden_size"),
        ({"hidden_size": "16"}, "config: "),
    ],
    ids=str,
)
def test_a_config_that_this_release_does_not_know_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        language_model_of(_with_config(language_model_checkpoint(), **fields))


def test_a_config_without_a_field_is_refused() -> None:
    checkpoint = sentence_encoder_checkpoint()
    config = {name: value for name, value in checkpoint.config.items() if name != "dimension"}
    with pytest.raises(CheckpointError, match=r"config\.dimension is missing"):
        sentence_encoder_of(dataclasses.replace(checkpoint, config=config))
