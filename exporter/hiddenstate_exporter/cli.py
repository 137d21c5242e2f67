"""The exporter's commands, which `hiddenstate` loads only when they are asked for."""

import click

from hiddenstate_exporter.commands.compare import compare
from hiddenstate_exporter.commands.export import evaluate, export
from hiddenstate_exporter.commands.import_model import import_
from hiddenstate_exporter.commands.inspect import inspect
from hiddenstate_exporter.commands.train_language_model import language_model
from hiddenstate_exporter.commands.train_sentence_encoder import sentence_encoder

__all__ = ["compare", "evaluate", "export", "import_", "inspect", "train"]


@click.group("train")
def train() -> None:
    """Train a model on text (needs the extra "exporter")."""


train.add_command(language_model)
train.add_command(sentence_encoder)
