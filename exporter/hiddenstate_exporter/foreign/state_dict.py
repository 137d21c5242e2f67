"""Reads a state_dict that somebody else saved: .pt and .pth (torch.save), .safetensors, or .npz. No code is run."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class StateDictError(ValueError):
    """A file is not a state_dict; the message names the file and what it is."""


def read_state_dict(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a file by name, on the CPU.

    Args:
        path: The file; its ending says which form it has.
        key: What the state_dict lies under, if the file holds more than that.

    Raises:
        StateDictError: no such file, a damaged one, one with code in it, or no state_dict.
    """
    try:
        content = _read(path)
    except FileNotFoundError:
        raise StateDictError(f"{path}: no such file") from None
    except OSError as error:
        raise StateDictError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        raise StateDictError(f"{path}: {_pickle_problem(error)}") from None
    except Exception as error:  # damaged files raise many kinds: zip, pickle, EOF, runtime, value
        raise StateDictError(f"{path}: not a file of tensors, or a damaged one ({type(error).__name__})") from None
    return _checked(content, key, path)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        with path.open("rb"):  # its own error for a missing file is another in each release
            return load_file(path)
    if path.suffix == ".npz":
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    with warnings.catch_warnings(action="ignore"):  # of forms that it may refuse, as the error then says
        return torch.load(path, map_location="cpu", weights_only=True)


def _pickle_problem(error: pickle.UnpicklingError) -> str:
    found = _GLOBAL.search(str(error))
    held = f"holds the Python object {found[1]} beside tensors" if found else "holds more than tensors"
    return (
        f"{held}, and to read it would run code from the file, which is never done here; "
        "where the model was trained, save its tensors alone: torch.save(model.state_dict(), FILE)"
    )


def _checked(content: Any, key: str | None, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise StateDictError(f"{path}: not a state_dict but a {type(content).__name__}")
    if key is not None:
        if not isinstance(content.get(key), Mapping):
            raise StateDictError(f"{path}: state_dict: nothing lies under {key!r}; there is: {_some(content)}")
        content = content[key]
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise StateDictError(f"{path}: not a state_dict: {name!r} is a {type(value).__name__}{_hint(content)}")
    if not content:
        raise StateDictError(f"{path}: has no tensors")
    return dict(content)


def _hint(content: Mapping[Any, Any]) -> str:
    """Says where in a training checkpoint the state_dict probably lies."""
    for name, value in content.items():
        if isinstance(value, Mapping) and value and all(isinstance(item, Tensor) for item in value.values()):
            return f'; if the weights lie under {name!r}, say so in the description: "state_dict": "{name}"'
    return ""


def _some(names: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(names)[:8])) + (", ..." if len(names) > 8 else "")
