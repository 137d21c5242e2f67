"""Options that mean the same to every kind of model that is trained, and the keys of a run that they stand for."""

from typing import Final

import click

LR = click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=2e-3, help="Peak learning rate.")
SCHEDULE = click.option(
    "--schedule",
    type=click.Choice(["cosine", "linear", "plateau", "constant"]),
    default="cosine",
    help="cosine, linear: falls to near zero over --max-epochs or --max-minutes, whichever is nearer; plateau: halves "
    "when validation does not improve.",
)
CLIP = click.option(
    "--clip", type=click.FloatRange(min=0, min_open=True), default=1.0, help="Largest norm of the gradient."
)
VALIDATIONS_PER_EPOCH = click.option(
    "--validations-per-epoch", type=click.IntRange(min=1), default=1, help="How often to validate."
)
RESUME = click.option("--resume", is_flag=True, help="Continue the run in --run-dir.")
DATA_DESCRIPTION = click.option(
    "--data-description", metavar="TEXT", help="What the data is, for the model card.  [default: the sources]"
)

TRAINING_KEYS: Final = {
    "data_description": "data.description",
    "batch_size": "batches.batch_size",
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "clip": "optimizer.clip",
    "schedule": "schedule.kind",
    "max_epochs": "training.max_epochs",
    "max_minutes": "training.max_minutes",
    "patience": "training.patience",
    "validations_per_epoch": "training.validations_per_epoch",
    "seed": "training.seed",
    "threads": "training.threads",
    "precision": "training.precision",
    "device": "training.device",
}
