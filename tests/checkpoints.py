"""Tiny checkpoints for tests of the exporter, with the weights of the tiny bundles."""

from pathlib import Path
from typing import Any

import torch

from bundles import (
    ATTENTION_HEADS,
    ATTENTION_SIZE,
    SPECIALS,
    WORDS,
    language_model_weights,
    sentence_encoder_weights,
    word_tokenizer,
)
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.networks.language_model import LanguageModelConfig
from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoderConfig
from hiddenstate_exporter.publishing.export import ExportOptions, export
from hiddenstate_exporter.training.checkpoint import Checkpoint, save_checkpoint

VOCABULARY = [*SPECIALS, *WORDS]
TRAINING = {"data": "random numbers from a seed", "command": "hiddenstate train x", "seconds": 61.5, "epochs": 1.5}


def language_model_checkpoint(
    *,
    hidden_size: int = 16,
    embedding_size: int = 8,
    num_layers: int = 2,
    cell: Cell = "lstm",
    connections: Connections = "none",
) -> Checkpoint:
    """Makes the checkpoint of a tied language model."""
    config = LanguageModelConfig(
        vocab_size=len(VOCABULARY),
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        cell=cell,
        connections=connections,
        dropout=0.1,
    )
    weights = language_model_weights(len(VOCABULARY), config.shape, seed=0)
    return Checkpoint(
        kind="language_model",
        config=config.to_dict(),
        model={name: torch.from_numpy(array) for name, array in weights.items()},
        tokenizer=word_tokenizer(VOCABULARY).to_str(),
        training=TRAINING,
        metrics={"perplexity": 12.5},
    )


def sentence_encoder_checkpoint(**fields: Any) -> Checkpoint:
    """Makes the checkpoint of a sentence encoder with two layers; `fields` replace those of its config."""
    config = SentenceEncoderConfig(
        **{
            "vocab_size": len(VOCABULARY),
            "embedding_size": 8,
            "hidden_size": 10,
            "num_layers": 2,
            "dimension": 12,
            "attention_heads": ATTENTION_HEADS,
            "attention_size": ATTENTION_SIZE,
            "max_seq_length": 64,
            **fields,
        }
    )
    weights = sentence_encoder_weights(len(VOCABULARY), config.shape, config.dimension, config.pooling, seed=0)
    return Checkpoint(
        kind="sentence_encoder",
        config=config.to_dict(),
        model={name: torch.from_numpy(array) for name, array in weights.items()},
        tokenizer=word_tokenizer(VOCABULARY).to_str(),
        training=TRAINING,
        metrics={"sts_dev_spearman": 0.5},
    )


def saved(checkpoint: Checkpoint, folder: Path) -> Path:
    """Writes a checkpoint to `folder/run/best.pt` and returns that path."""
    path = folder / "run" / "best.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, checkpoint)
    return path


def exported(checkpoint: Checkpoint, folder: Path, **options: Any) -> tuple[Path, list[str]]:
    """Publishes a checkpoint in `folder/models`; returns the bundle's folder, and the lines that were shown."""
    lines: list[str] = []
    target = export(saved(checkpoint, folder), ExportOptions(to=folder / "models", **options), echo=lines.append)
    return target, lines
