"""What the head graph says of the rows of a batch."""

import numpy as np
from numpy.typing import NDArray


class HeadOutput:
    """What the head says of each row."""

    __slots__ = ("_ids", "_row_bytes", "_values", "target_log_probs", "top_ids", "top_log_probs")

    def __init__(
        self, top_log_probs: NDArray[np.float32], top_ids: NDArray[np.int64], target_log_probs: NDArray[np.float32]
    ) -> None:
        self.top_log_probs = top_log_probs  # [rows, k]
        self.top_ids = top_ids  # [rows, k]
        self.target_log_probs = target_log_probs  # [rows]
        self._ids: list[list[int]] | None = None  # the first two, made plain when a row is asked for
        self._values = b""
        self._row_bytes = 0

    def row(self, row: int) -> tuple[list[int], bytes]:
        """Returns the k best of a row: their ids, and their log probabilities as float32 [k]."""
        if self._ids is None:
            self._ids, self._values = self.top_ids.tolist(), self.top_log_probs.tobytes()
            self._row_bytes = self.top_log_probs.itemsize * self.top_log_probs.shape[1]
        return self._ids[row], self._values[row * self._row_bytes : (row + 1) * self._row_bytes]
