"""Weights of a model as plain arrays, and the files that the graphs of a bundle read them from."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

WEIGHTS_FILE = "weights.bin"
ALIGNMENT = 64  # bytes; a cache line, so that a mapped tensor starts on one

StoredDtype = Literal["float32", "float16"]
Weights = Mapping[str, NDArray[np.float32]]  # named as in the model's PyTorch state_dict


class WeightsError(ValueError):
    """A tensor is missing, has a wrong shape or holds values that cannot be stored."""


class WeightsFile:
    """Collects tensors for a file of ONNX external data, `weights.bin`; a tensor met twice is stored once.

    Tensors keep the order in which they were first added, so equal models give equal bytes. What lies in a `shared`
    file already is not stored again.
    """

    def __init__(self, name: str = WEIGHTS_FILE, shared: "WeightsFile | None" = None) -> None:
        self.name = name
        self._shared = shared
        self._chunks: list[bytes] = []
        self._size = 0
        self._offsets: dict[bytes, int] = {}

    @classmethod
    def read(cls, folder: Path, graphs: Iterable[str]) -> "WeightsFile":
        """Reads which tensors some graphs have in `weights.bin`, so that more graphs can share them."""
        file, data = cls(), memoryview((folder / WEIGHTS_FILE).read_bytes())
        for graph in graphs:
            for tensor in onnx.load(folder / graph, load_external_data=False).graph.initializer:
                place = {entry.key: entry.value for entry in tensor.external_data}
                if place:
                    offset, length = int(place["offset"]), int(place["length"])
                    file._offsets[hashlib.sha256(data[offset : offset + length]).digest()] = offset
        return file

    def add(self, name: str, array: NDArray[Any]) -> onnx.TensorProto:
        """Stores an array as it is and returns the tensor that refers to it."""
        data = np.ascontiguousarray(array).tobytes()
        tensor = onnx.TensorProto(
            name=name,
            data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        location, offset = self._place(data)
        place = {"location": location, "offset": str(offset), "length": str(len(data))}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        return tensor

    def write(self, folder: Path) -> None:
        """Writes the file into a folder, unless a shared one holds all that is in it."""
        if self._chunks:
            (folder / self.name).write_bytes(b"".join(self._chunks))

    def _place(self, data: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(data).digest()
        if self._shared is not None and digest in self._shared._offsets:
            return self._shared.name, self._shared._offsets[digest]
        if digest not in self._offsets:
            self._offsets[digest] = self._size
            padded = data + bytes(-len(data) % ALIGNMENT)
            self._chunks.append(padded)
            self._size += len(padded)
        return self.name, self._offsets[digest]


def tensor(weights: Weights, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """Returns a tensor whose shape is as expected; None stands for any size.

    Raises:
        WeightsError: it is missing or has another shape.
    """
    if name not in weights:
        raise WeightsError(f"tensor {name!r} is missing")
    array = weights[name]
    if len(array.shape) != len(shape) or any(
        want not in (None, size) for size, want in zip(array.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise WeightsError(f"tensor {name!r} has shape {list(array.shape)}, expected [{wanted}]")
    return array


def round_weights(weights: Weights, dtype: StoredDtype) -> dict[str, NDArray[np.float32]]:
    """Returns the weights as they come back after being stored in `dtype`.

    Raises:
        WeightsError: a tensor holds values that are not finite, or too large for `dtype`.
    """
    return {name: _round(name, array, dtype) for name, array in weights.items()}


def _round(name: str, array: NDArray[np.float32], dtype: StoredDtype) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype).astype(np.float32)
    if not np.isfinite(rounded).all():
        reason = f"too large for {dtype}" if np.isfinite(array).all() else "not finite"
        raise WeightsError(f"tensor {name!r} holds values that are {reason}")
    return rounded
