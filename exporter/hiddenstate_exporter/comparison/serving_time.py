"""How long a bundle takes for a token of one context, as a server runs it: ONNX Runtime, one thread."""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hiddenstate_exporter.publishing.onnx_model import OnnxLanguageModel
from hiddenstate_server.bundle import load_bundle

WARM_UP, TIMED = 30, 300  # tokens
TOP_K = 5


class _Context:
    """A context that is fed one token after another."""

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(folder)
        self._model = OnnxLanguageModel(folder, bundle.variants["fp32"].graphs, threads=1)
        self._state = np.zeros((1, self._model.state_size), np.float32)
        self._vocab_size = bundle.vocab_size

    def advance(self, number: int) -> float:
        """Feeds a token, picks the likeliest next ones, and returns the seconds that it took."""
        tokens = np.array([[number % self._vocab_size]], np.int64)
        start = time.perf_counter()
        outputs, self._state = self._model.advance(tokens, np.ones(1, np.int32), self._state)
        self._model.top(outputs[:, 0], TOP_K)
        return time.perf_counter() - start


def serving_times(folders: Sequence[Path]) -> Mapping[Path, float]:
    """Returns milliseconds for a token, the median of many, by bundle folder.

    The bundles take turns, so that what else the machine does is felt by all of them.
    """
    contexts = {folder: _Context(folder) for folder in folders}
    times: dict[Path, list[float]] = {folder: [] for folder in folders}
    for number in range(WARM_UP + TIMED):
        for folder, context in contexts.items():
            times[folder].append(context.advance(number))
    return {folder: 1000 * statistics.median(taken[WARM_UP:]) for folder, taken in times.items()}
