"""Pure functions from lists to batches."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pad(rows: Sequence[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Returns the rows side by side [batch, seq], padded with 0 at the end, and their lengths [batch]."""
    lengths = np.array(list(map(len, rows)), dtype=np.int32)
    longest = int(lengths.max())
    if int(lengths.min()) == longest:
        return np.array(rows, dtype=np.int64), lengths
    padding = [0] * longest
    return np.array([row + padding[len(row) :] for row in rows], dtype=np.int64), lengths
