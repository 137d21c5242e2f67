"""Triton's classification extension: the largest values of an output, as text."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.inference.tensors import Datatype


def classify(array: NDArray[Any], datatype: Datatype, count: int, *, batched: bool) -> NDArray[np.object_]:
    """Returns the `count` largest values of each row as b"value:index", largest first; all if there are fewer.

    [batch, count] if axis 0 is the batch, else [count]; an index counts through all other axes.
    """
    values = _numbers(array) if datatype == "BF16" else array
    rows = values.reshape(values.shape[0], math.prod(values.shape[1:])) if batched else values.reshape(1, values.size)
    classes = np.empty((len(rows), min(count, rows.shape[1])), dtype=np.object_)
    for row, of_row in zip(classes, rows, strict=True):
        row[:] = [b"%s:%d" % (_text(of_row[index], datatype), index) for index in _largest(of_row, len(row))]
    return classes if batched else classes[0]


def _numbers(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Returns BF16 as numbers: it is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _largest(values: NDArray[Any], count: int) -> list[int]:
    """Returns where the largest values are; of equal ones the first comes first."""
    from_the_end = np.argsort(values[::-1], kind="stable")[::-1][:count]
    indices: list[int] = (len(values) - 1 - from_the_end).tolist()
    return indices


def _text(value: Any, datatype: Datatype) -> bytes:
    if datatype == "BYTES":
        return bytes(value)
    return (f"{float(value):f}" if datatype.startswith(("FP", "BF")) else str(int(value))).encode()
