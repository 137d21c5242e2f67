"""Turns a checkpoint back into a PyTorch model, and says exactly what is wrong if it cannot."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hiddenstate_exporter.graphs.stack_shape import read_stack_shape
from hiddenstate_exporter.graphs.weights import StoredDtype, Weights, WeightsError, round_weights
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoder, SentenceEncoderConfig
from hiddenstate_exporter.networks.stack import canonical_name
from hiddenstate_exporter.networks.stack_config import StackConfig
from hiddenstate_exporter.training.checkpoint import Checkpoint, CheckpointError

Config = TypeVar("Config", LanguageModelConfig, SentenceEncoderConfig)
Model = TypeVar("Model", LanguageModel, SentenceEncoder)


def language_model_of(checkpoint: Checkpoint) -> LanguageModel:
    """Returns the language model of a checkpoint, float32, in eval mode.

    Raises:
        CheckpointError: config and tensors do not make a language model; the message names the field or tensor.
    """
    config = _config(LanguageModelConfig, checkpoint)
    model = _model(LanguageModel, config, checkpoint.model)
    if config.tied and not torch.equal(checkpoint.model["decoder.weight"], checkpoint.model["embedding.weight"]):
        raise CheckpointError("tensor 'decoder.weight' differs from 'embedding.weight', but config.tied is true")
    return model


def sentence_encoder_of(checkpoint: Checkpoint) -> SentenceEncoder:
    """Returns the sentence encoder of a checkpoint, float32, in eval mode.

    Raises:
        CheckpointError: config and tensors do not make a sentence encoder; the message names the field or tensor.
    """
    return _model(SentenceEncoder, _config(SentenceEncoderConfig, checkpoint), checkpoint.model)


def weights_of(model: nn.Module) -> Weights:
    """Returns a model's tensors as arrays; those of recurrent layers by the names in `stack_shape`."""
    return {canonical_name(name): tensor.numpy() for name, tensor in model.state_dict().items()}


def round_model(model: nn.Module, dtype: StoredDtype) -> None:
    """Rounds a model's weights in place, as storing them in `dtype` does.

    Raises:
        WeightsError: a tensor holds values that are not finite, or too large for `dtype`.
    """
    rounded = round_weights(weights_of(model), dtype)
    _load(model, {name: torch.from_numpy(array) for name, array in rounded.items()})


def count_parameters(model: nn.Module) -> int:
    """Returns how many parameters a model has; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _config(kind: type[Config], checkpoint: Checkpoint) -> Config:
    values = dict(checkpoint.config)
    known = {field.name: field for field in fields(kind)}
    unknown = sorted(values.keys() - known.keys())
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if unknown or missing:
        problem = f"{unknown[0]} is not known" if unknown else f"{missing[0]} is missing"
        raise CheckpointError(f"config.{problem}; this release cannot read the checkpoint")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"config: {error}") from None


def _model(kind: Callable[[Any], Model], config: Any, tensors: Mapping[str, Tensor]) -> Model:
    tensors = {canonical_name(name): tensor for name, tensor in tensors.items()}
    _check_stack(config, tensors)
    with torch.device("meta"):  # shapes only: a damaged config may ask for any size
        expected = {canonical_name(name): tensor.shape for name, tensor in kind(config).state_dict().items()}
    _check_tensors(expected, tensors)
    model = kind(config)
    _load(model, {name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def _load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors, named as `weights_of` names them, into a model of the same shape."""
    model.load_state_dict({name: tensors[canonical_name(name)] for name in model.state_dict()})


def _check_stack(config: StackConfig, tensors: Mapping[str, Tensor]) -> None:
    """Says what is wrong in words of the architecture where it can, before tensors are compared one by one."""
    try:
        arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
        read_stack_shape(arrays, config.cell, config.connections)
    except WeightsError as error:
        raise CheckpointError(str(error)) from None


def _check_tensors(expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> None:
    for name, shape in expected.items():
        if name not in tensors:
            raise CheckpointError(f"tensor {name!r} is missing")
        if tensors[name].shape != shape:
            found, wanted = list(tensors[name].shape), list(shape)
            raise CheckpointError(f"tensor {name!r} has shape {found}, but the config asks for {wanted}")
        if not tensors[name].is_floating_point():
            raise CheckpointError(f"tensor {name!r} is {tensors[name].dtype}, not a floating-point type")
    for name in tensors:
        if name not in expected:
            raise CheckpointError(f"tensor {name!r} does not belong to a model of this config")
