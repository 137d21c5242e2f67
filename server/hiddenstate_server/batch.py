"""Pure functions from lists to batches."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pad(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Returns the rows side by side [batch, seq], padded with 0 at the end, and their lengths [batch]."""
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    tokens = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for line, row in zip(tokens, rows, strict=True):
        line[: len(row)] = row
    return tokens, lengths
