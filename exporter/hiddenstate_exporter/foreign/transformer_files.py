"""Reads the files of a sentence-transformers folder; what is wrong with one is said with its path."""

import os
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec

from hiddenstate_exporter.foreign.state_dict import read_state_dict
from hiddenstate_exporter.graphs.weights import Weights

Settings = TypeVar("Settings")
Size = Annotated[int, msgspec.Meta(ge=1)]

WEIGHT_FILES: Final = ("model.safetensors", "pytorch_model.bin")  # the first there is counts
CARD_FILE: Final = "README.md"


class TransformerFolderError(ValueError):
    """A folder cannot be exported; the message names the file, what is wrong with it, and what would be right."""


def read_settings(path: Path, kind: type[Settings]) -> Settings:
    """Reads a JSON file; keys that `kind` does not have are passed over, as they do not change the vectors.

    Raises:
        TransformerFolderError: no such file, or it lacks a setting or has one of another type.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise TransformerFolderError(f"{path}: no such file; the folder is not complete: copy it again") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TransformerFolderError(f"{path}: cannot be read: {error}") from None


def read_tensors(folder: Path) -> Weights:
    """Reads the weights in a folder as float32; tensors of whole numbers, which are no weights, are left out.

    Raises:
        TransformerFolderError: there are none.
        StateDictError: the file is damaged.
    """
    tensors = read_state_dict(weights_path(folder))
    return {name: tensor.float().numpy() for name, tensor in tensors.items() if tensor.is_floating_point()}


def weights_path(folder: Path) -> Path:
    """Returns the file of weights in a folder.

    Raises:
        TransformerFolderError: there is none.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise TransformerFolderError(f"{folder}: has no weights; {' or '.join(WEIGHT_FILES)} is needed")


def read_license(folder: Path) -> str | None:
    """Returns the licence that the folder's model card names, or None.

    Raises:
        TransformerFolderError: the card's metadata cannot be read.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at the import below
    from huggingface_hub import metadata_load

    path = folder / CARD_FILE
    if not path.is_file():
        return None
    try:
        metadata = metadata_load(path) or {}
    except Exception as error:  # whatever damaged YAML makes the library raise
        reason = " ".join(str(error).split())
        raise TransformerFolderError(f"{path}: its metadata cannot be read: {reason}") from None
    named = metadata.get("license_name") or metadata.get("license")  # license: other, license_name: its name
    return ", ".join(map(str, named)) if isinstance(named, list) else str(named) if named else None
