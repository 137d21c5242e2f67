"""Tiny checkpoints for tests of the exporter, with the weights of the tiny bundles."""

from pathlib import Path
from typing import Any

import torch

from bundles import SPECIALS, WORDS, language_model_weights, sentence_encoder_weights, word_tokenizer
from hiddenstate_exporter.checkpoint import Checkpoint, save_checkpoint

VOCABULARY = [*SPECIALS, *WORDS]
TRAINING = {"data": "random numbers from a seed", "command": "hiddenstate train x", "seconds": 61.5, "epochs": 1.5}


def language_model_checkpoint(*, hidden_size: int = 16, embedding_size: int = 8, num_layers: int = 2) -> Checkpoint:
    """Makes the checkpoint of a tied language model."""
    weights = language_model_weights(len(VOCABULARY), hidden_size, embedding_size, num_layers, seed=0)
    return Checkpoint(
        kind="language_model",
        config={
            "vocab_size": len(VOCABULARY),
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "cell": "lstm",
            "tied": True,
            "dropout": 0.1,
            "bidirectional": False,
        },
        model={name: torch.from_numpy(array) for name, array in weights.items()},
        tokenizer=word_tokenizer(VOCABULARY).to_str(),
        training=TRAINING,
        metrics={"perplexity": 12.5},
    )


def sentence_encoder_checkpoint(*, pooling: str = "mean", **config: Any) -> Checkpoint:
    """Makes the checkpoint of a sentence encoder with two layers; `config` replaces fields of its config."""
    weights = sentence_encoder_weights(len(VOCABULARY), 10, 8, 2, 12, seed=0)
    return Checkpoint(
        kind="sentence_encoder",
        config={
            "vocab_size": len(VOCABULARY),
            "embedding_size": 8,
            "hidden_size": 10,
            "num_layers": 2,
            "dimension": 12,
            "pooling": pooling,
            "normalized": True,
            "max_seq_length": 64,
            "bidirectional": True,
            **config,
        },
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
