"""State_dicts as other people save them, and files that are none."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hiddenstate_exporter.foreign.state_dict import StateDictError, read_state_dict

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def _save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _arrays() -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in TENSORS.items()}


def _same(found: dict[str, Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("ending", ["pt", "pth", "bin"])
def test_what_torch_saved_is_read(tmp_path: Path, ending: str) -> None:
    assert _same(read_state_dict(_save(tmp_path / f"model.{ending}", OrderedDict(TENSORS))))


def test_the_older_form_of_torch_files_is_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    assert _same(read_state_dict(tmp_path / "model.pt"))


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert _same(read_state_dict(tmp_path / "model.safetensors"))


def test_arrays_of_numpy_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **_arrays())
    assert _same(read_state_dict(tmp_path / "model.npz"))


def test_a_state_dict_within_a_training_checkpoint_is_read_by_its_key(tmp_path: Path) -> None:
    path = _save(tmp_path / "last.pt", {"epoch": 3, "model_state": TENSORS})
    assert _same(read_state_dict(path, "model_state"))


def test_a_training_checkpoint_without_a_key_is_refused_with_the_key_to_give(tmp_path: Path) -> None:
    path = _save(tmp_path / "last.pt", {"epoch": 3, "model_state": TENSORS})
    with pytest.raises(StateDictError, match=r"last\.pt: not a state_dict: 'epoch' is a int; .*: \"model_state\"$"):
        read_state_dict(path)


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = _save(tmp_path / "last.pt", {"epoch": 3, "model_state": TENSORS})
    with pytest.raises(StateDictError, match=r"nothing lies under 'model'; there is: epoch, model_state$"):
        read_state_dict(path, "model")


class _Touch:
    """Whoever unpickles this runs code."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    path = _save(tmp_path / "model.pt", {"a": TENSORS["a.bias"], "b": _Touch(tmp_path / "ran")})
    with pytest.raises(StateDictError, match=r"model\.pt: holds .* would run code .* torch\.save\(model\.state_dict"):
        read_state_dict(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    path = _save(tmp_path / "model.pt", nn.Linear(2, 2))
    with pytest.raises(StateDictError, match=r"holds the Python object torch\.nn\.modules\.linear\.Linear beside"):
        read_state_dict(path)


def test_arrays_that_hold_objects_are_refused_and_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", a=np.array([_Touch(tmp_path / "ran")], dtype=object))
    with pytest.raises(StateDictError, match="not a file of tensors"):
        read_state_dict(tmp_path / "model.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", ["pt", "npz", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"no tensors at all", pickle.dumps({"a": 1}, protocol=4), b"PK\x03\x04"])
def test_other_files_are_refused(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"model.{ending}"
    path.write_bytes(content)
    with pytest.raises(StateDictError, match=rf"model\.{ending}: (not a file of tensors|holds more than tensors)"):
        read_state_dict(path)


@pytest.mark.parametrize("ending", ["pt", "npz", "safetensors"])
def test_half_a_file_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    if ending == "pt":
        torch.save(TENSORS, path)
    elif ending == "npz":
        np.savez(path, **_arrays())
    else:
        save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StateDictError, match="a damaged one"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([torch.ones(2)], "not a state_dict but a list"),
        (torch.ones(2), "not a state_dict but a Tensor"),
        ({"a": 1.5}, "not a state_dict: 'a' is a float$"),
        ({1: torch.ones(2)}, "not a state_dict: 1 is a Tensor"),
        ({}, "has no tensors"),
    ],
)
def test_other_content_is_refused_by_what_it_is(tmp_path: Path, content: Any, problem: str) -> None:
    with pytest.raises(StateDictError, match=problem):
        read_state_dict(_save(tmp_path / "model.pt", content))


@pytest.mark.parametrize("ending", ["pt", "npz", "safetensors"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, ending: str) -> None:
    with pytest.raises(StateDictError, match=rf"model\.{ending}: no such file$"):
        read_state_dict(tmp_path / f"model.{ending}")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateDictError, match="cannot be read: Is a directory"):
        read_state_dict(tmp_path)
