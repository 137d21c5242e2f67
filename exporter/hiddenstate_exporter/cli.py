"""The exporter's commands, which `hiddenstate` loads only when they are asked for."""

import click

from hiddenstate_exporter.cli_encoder import sentence_encoder
from hiddenstate_exporter.cli_export import evaluate, export
from hiddenstate_exporter.cli_import import import_
from hiddenstate_exporter.cli_language_model import language_model

__all__ = ["evaluate", "export", "import_", "train"]


@click.group("train")
def train() -> None:
    """Train a model on text (needs the extra "exporter")."""


train.add_command(language_model)
train.add_command(sentence_encoder)
