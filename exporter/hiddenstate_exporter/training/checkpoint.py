"""A training checkpoint: everything that is needed to export a model, and to go on training it.

One file, readable with `torch.load(weights_only=True)`: plain values and tensors, no code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch

from hiddenstate_exporter.training.whole_file import whole_file

SCHEMA_VERSION: Final = 1

Kind = Literal["language_model", "sentence_encoder"]


class CheckpointError(ValueError):
    """A checkpoint cannot be read, written or used; the message says which file and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The content of a checkpoint file.

    `training` has `data` (words for people), `command` (the one that began the run, and those that resumed it with
    changes, one a line), `seconds` and `epochs` (floats), and `config`, the tables of the run (see `run_config`). The
    last four fields are there only in a checkpoint that training can continue from (`last.pt`).
    """

    kind: Kind
    config: Mapping[str, Any]  # the model config's fields
    model: Mapping[str, torch.Tensor]  # state_dict, on the CPU
    tokenizer: str  # text of a tokenizer.json
    training: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    special_words: Mapping[str, str] = field(default_factory=dict)  # bos, eos, unk, where not as in `vocabulary`
    schema_version: int = SCHEMA_VERSION
    optimizer: Mapping[str, Any] | None = None
    schedule: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None
    rng: torch.Tensor | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint so that `path` always holds a whole one.

    Raises:
        CheckpointError: the file cannot be written.
    """
    content = {f.name: _plain(getattr(checkpoint, f.name)) for f in fields(checkpoint)}
    try:
        with whole_file(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint; tensors come to the CPU.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one of another schema.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # torch raises many kinds for a damaged file: pickle, zip, EOF, runtime
        raise CheckpointError(f"{path}: not a checkpoint, or a damaged one ({type(error).__name__})") from error
    return _checked(content, path)


def _plain(value: Any) -> Any:
    """Returns a value of the types that a weights-only load accepts."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def _checked(content: Any, path: Path) -> Checkpoint:
    if not isinstance(content, dict) or "schema_version" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of hiddenstate (it has no schema_version)")
    if content["schema_version"] != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: schema_version {content['schema_version']}, this release reads {SCHEMA_VERSION}"
        )
    missing = {"kind", "config", "model", "tokenizer", "training"} - content.keys()
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(sorted(missing))}")
    if content["kind"] not in get_args(Kind):
        raise CheckpointError(f"{path}: kind {content['kind']!r} is not one of {', '.join(get_args(Kind))}")
    known = {f.name for f in fields(Checkpoint)}
    return Checkpoint(**{name: value for name, value in content.items() if name in known})
