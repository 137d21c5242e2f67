"""Chooses the next token of a generated text among a model's candidates."""

import numpy as np
from numpy.typing import NDArray


class Sampler:
    """Samples with temperature and nucleus (top-p; Holtzman et al. 2020). The same seed makes the same choices."""

    def __init__(self, *, temperature: float, top_p: float, seed: int) -> None:
        self.seed = seed
        self._temperature = temperature
        self._top_p = top_p
        self._random = np.random.Generator(np.random.PCG64(seed))

    def choose(self, log_probs: NDArray[np.float32]) -> int:
        """Returns the position of the choice in `log_probs` [k], which are sorted, likeliest first."""
        if self._temperature == 0:
            return 0
        weights = np.exp((log_probs - log_probs[0]).astype(np.float64) / self._temperature)
        cumulative = np.cumsum(weights)
        nucleus = self._top_p * cumulative[-1]
        kept = int(np.searchsorted(cumulative, nucleus)) + 1  # the fewest that hold top_p together
        kept = min(kept, len(weights))
        choice = int(np.searchsorted(cumulative[:kept], self._random.random() * cumulative[kept - 1], side="right"))
        return min(choice, kept - 1)  # a product that was rounded up, or is no number, points past the end
