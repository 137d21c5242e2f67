"""Turns a model from elsewhere into a checkpoint of ours, so that it is published as our own are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from hiddenstate_exporter.foreign.decoder import read_decoder
from hiddenstate_exporter.foreign.description import (
    Description,
    DescriptionError,
    LanguageModelDescription,
    SentenceEncoderDescription,
)
from hiddenstate_exporter.foreign.tensors import ForeignTensors
from hiddenstate_exporter.foreign.word_list import make_tokenizer
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.networks.language_model import LanguageModelConfig
from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoderConfig
from hiddenstate_exporter.publishing.source import NOT_STATED
from hiddenstate_exporter.training.checkpoint import Checkpoint

_NO_NEXT_WORD: Final = (
    "a bidirectional language model reads the next word, so it cannot predict it; only sentence encoders can be"
)


def convert(description: Description, tensors: Mapping[str, Tensor], folder: Path, *, command: str) -> Checkpoint:
    """Makes a checkpoint of a state_dict.

    Args:
        description: What the tensors are.
        tensors: By the names that the description uses.
        folder: Where the description's files lie.
        command: For the model card.

    Raises:
        DescriptionError: description, tensors and vocabulary contradict each other; the message names field or tensor.
        VocabularyError: the tokenizer file cannot be read.
    """
    tokenizer = make_tokenizer(description, folder)
    foreign = ForeignTensors(tensors, rename=description.rename, ignore=description.ignore)
    if isinstance(description, LanguageModelDescription):
        fields, model = _language_model(description, foreign)
        specials = {"bos": description.bos or description.eos, "eos": description.eos, "unk": description.unk}
    else:
        fields, model = _sentence_encoder(description, foreign)
        specials = {}
    foreign.check_nothing_left()
    words, rows = tokenizer.get_vocab_size(with_added_tokens=True), fields["vocab_size"]
    if words != rows:
        field = "tokenizer" if description.vocabulary is None else "vocabulary"
        raise DescriptionError(f"{field}: has {words} words, but the embedding has {rows} rows")
    return Checkpoint(
        kind="language_model" if isinstance(description, LanguageModelDescription) else "sentence_encoder",
        config=fields,
        model=model,
        tokenizer=tokenizer.to_str(),
        training={
            "data": description.training_data or NOT_STATED,
            "command": command,
            "seconds": 0.0,  # not known
            "epochs": 0.0,
        },
        special_words=specials,
    )


def _language_model(
    description: LanguageModelDescription, tensors: ForeignTensors
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if description.bidirectional:
        raise DescriptionError(f"bidirectional: {_NO_NEXT_WORD}")
    shape, sizes, model = _embedding_and_stack(description, tensors)
    if shape.bidirectional:
        raise DescriptionError(f"tensor '{description.rnn}.weight_ih_l0_reverse': {_NO_NEXT_WORD}")
    width, projection = _projection(description, tensors, shape.output_size)
    head, decoder = read_decoder(description, tensors, width, model["embedding.weight"])
    config = _config(
        LanguageModelConfig,
        **sizes,
        cell=description.cell,
        projection_size=width if projection else 0,
        forget_bias=None,
        **head,
    )
    return config, {**model, **projection, **decoder}


def _sentence_encoder(
    description: SentenceEncoderDescription, tensors: ForeignTensors
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    shape, sizes, model = _embedding_and_stack(description, tensors)
    pooled, attention = shape.output_size, {}
    if description.attention is not None:
        w1, w2 = (f"{module}.weight" for module in description.attention)
        inner = tensors.take(w1, (None, pooled))
        outer = tensors.take(w2, (None, len(inner)))
        model |= {"pooling.w1.weight": inner, "pooling.w2.weight": outer}
        attention = {"attention_size": len(inner), "attention_heads": len(outer)}
        pooled *= len(outer)
    dimension, projection = _projection(description, tensors, pooled)
    _check_given(description, {"dimension": dimension})
    config = _config(
        SentenceEncoderConfig,
        **sizes,
        cell=description.cell,
        bidirectional=shape.bidirectional,
        pooling=description.pooling,
        **attention,
        dimension=dimension,
        projected=bool(projection),
        normalized=description.normalized,
        max_seq_length=description.max_seq_length,
    )
    return config, {**model, **projection}


def _embedding_and_stack(
    description: Description, tensors: ForeignTensors
) -> tuple[StackShape, dict[str, int], dict[str, Tensor]]:
    """Returns the stack's shape, the fields of a config that it gives, and the tensors by their names in our models."""
    name, embedding = tensors.table(description.embedding)
    shape, stack = tensors.stack(description.rnn, description.cell)
    vocab_size, embedding_size = embedding.shape
    if embedding_size != shape.input_size:
        raise DescriptionError(
            f"tensor {name!r} has rows of {embedding_size} components, but '{description.rnn}.weight_ih_l0' reads "
            f"{shape.input_size}"
        )
    sizes = {
        "vocab_size": vocab_size,
        "embedding_size": embedding_size,
        "hidden_size": shape.hidden_size,
        "num_layers": shape.num_layers,
    }
    _check_given(description, {**sizes, "bidirectional": shape.bidirectional})
    return shape, sizes, {"embedding.weight": embedding, **stack}


def _check_given(description: Description, found: Mapping[str, int]) -> None:
    for field, value in found.items():
        given = getattr(description, field)
        if given is not None and given != value:
            said, is_so = (str(v).lower() for v in (given, value))  # true and false as the description has them
            raise DescriptionError(f"{field}: is {said}, but that of the weights is {is_so}")


def _projection(description: Description, tensors: ForeignTensors, width: int) -> tuple[int, dict[str, Tensor]]:
    """Returns the width behind the projection, and its tensors; there may be none."""
    if description.projection is None:
        return width, {}
    weight, bias = tensors.linear(description.projection, inputs=width)
    return len(weight), {"projection.weight": weight, "projection.bias": bias}


def _config(kind: type[LanguageModelConfig] | type[SentenceEncoderConfig], **fields: Any) -> dict[str, Any]:
    try:
        return kind(**fields).to_dict()
    except ValueError as error:
        raise DescriptionError(str(error)) from None
