"""Reads the decoder of a language model from elsewhere: a linear layer, or PyTorch's adaptive softmax."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hiddenstate_exporter.foreign.description import DescriptionError, LanguageModelDescription
from hiddenstate_exporter.foreign.tensors import ForeignTensors
from hiddenstate_exporter.networks.adaptive_softmax import tail_width

Decoder = tuple[dict[str, Any], dict[str, Tensor]]


def read_decoder(
    description: LanguageModelDescription, tensors: ForeignTensors, width: int, embedding: Tensor
) -> Decoder:
    """Returns the fields of a `LanguageModelConfig` that the decoder gives, and its tensors.

    Args:
        description: What the tensors are.
        tensors: The model's.
        width: Of what the decoder reads.
        embedding: The embedding's table [vocab_size, embedding_size].

    Raises:
        DescriptionError: a tensor is missing, has a wrong shape or contradicts the description.
    """
    if description.head == "adaptive_softmax":
        return _adaptive_softmax(description, tensors, width, len(embedding))
    return _softmax(description, tensors, width, embedding)


def _softmax(description: LanguageModelDescription, tensors: ForeignTensors, width: int, embedding: Tensor) -> Decoder:
    name, vocab_size = f"{description.decoder}.weight", len(embedding)
    if description.tied and not tensors.has(name):  # some forms of file keep a shared tensor once
        weight, bias = embedding, tensors.bias(description.decoder, vocab_size)
    else:
        weight, bias = tensors.linear(description.decoder, inputs=width, outputs=vocab_size)
    tied = torch.equal(weight, embedding)
    if description.tied not in (None, tied):
        said, found = ("false", "is") if tied else ("true", "is not")
        raise DescriptionError(f"tied: is {said}, but {name!r} {found} the embedding's table")
    return {"tied": tied}, {"decoder.weight": weight, "decoder.bias": bias}


def _adaptive_softmax(
    description: LanguageModelDescription, tensors: ForeignTensors, width: int, vocab_size: int
) -> Decoder:
    """Reads `nn.AdaptiveLogSoftmaxWithLoss`."""
    clusters = list(_clusters(description, tensors, width))
    sizes = [len(outer) for _, outer in clusters]
    shortlist = vocab_size - sum(sizes)
    weight, bias = tensors.linear(f"{description.decoder}.head", inputs=width, outputs=shortlist + len(sizes))
    decoder = {"decoder.head.weight": weight, "decoder.head.bias": bias}
    for number, (inner, outer) in enumerate(clusters):
        decoder |= {f"decoder.tail.{number}.0.weight": inner, f"decoder.tail.{number}.1.weight": outer}
    cutoffs = tuple(itertools.accumulate(sizes[:-1], initial=shortlist))
    fields = {"head": "adaptive_softmax", "tied": False, "cutoffs": cutoffs, "div_value": description.div_value}
    return fields, decoder


def _clusters(
    description: LanguageModelDescription, tensors: ForeignTensors, width: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields each cluster's products: features to its narrow vectors, and those to its words."""
    for number in itertools.count():
        inner, outer = (f"{description.decoder}.tail.{number}.{product}.weight" for product in (0, 1))
        if number and not tensors.has(inner):
            return
        narrow = tensors.take(inner, (None, width))
        wanted = tail_width(width, number, description.div_value)
        if len(narrow) != wanted:
            raise DescriptionError(
                f"div_value: is {description.div_value:g}, which makes the vectors of {inner!r} {wanted} wide; "
                f"the tensor's are {len(narrow)}"
            )
        yield narrow, tensors.take(outer, (None, len(narrow)))
