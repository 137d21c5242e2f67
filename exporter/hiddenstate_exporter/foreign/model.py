"""Publishes a model from elsewhere: its weights and a description of them become a bundle."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from hiddenstate_exporter.foreign.conversion import convert
from hiddenstate_exporter.foreign.description import DescriptionError, read_description
from hiddenstate_exporter.foreign.state_dict import read_state_dict
from hiddenstate_exporter.publishing.evaluation import Track
from hiddenstate_exporter.publishing.export import ExportOptions, publish
from hiddenstate_exporter.publishing.source import Source


def import_model(
    weights: Path,
    description_path: Path,
    options: ExportOptions,
    *,
    echo: Callable[[str], None] = lambda line: None,
    track: Track = iter,
) -> Path:
    """Publishes the model as `to/NAME/VERSION` and returns that folder; by default it is called as the weights' file.

    Raises:
        DescriptionError: the description cannot be read, or contradicts the weights or the vocabulary.
        StateDictError: the weights are no state_dict.
        VocabularyError: the tokenizer file cannot be read.
        ExportError, PublicationError: as in `export.export`.
    """
    description = read_description(description_path)
    tensors = read_state_dict(weights, description.state_dict)
    command = f"hiddenstate import {weights.name} {description_path.name}"
    try:
        checkpoint = convert(description, tensors, description_path.parent, command=command)
    except DescriptionError as error:
        raise DescriptionError(f"{description_path}: {error}") from None
    options = dataclasses.replace(options, license=options.license or description.license)
    return publish(
        Source(model=checkpoint, name=weights.stem, origin=weights.name), weights, options, echo=echo, track=track
    )
