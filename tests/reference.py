"""A language model in plain numpy: the independent computation that the served one is held against."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.weights import Weights

Floats = NDArray[np.float64]


@dataclasses.dataclass
class ReferenceModel:
    """An LSTM stack with tied embeddings, in float64, one token at a time."""

    weights: Weights
    num_layers: int
    hidden_size: int

    def __post_init__(self) -> None:
        # Bundles store half precision; the reference computes with what is stored.
        self._w = {name: array.astype(np.float16).astype(np.float64) for name, array in self.weights.items()}

    def log_probs(self, tokens: list[int]) -> Floats:
        """Returns the log probabilities after each token [seq, vocab_size]."""
        h = np.zeros((self.num_layers, self.hidden_size))
        c = np.zeros((self.num_layers, self.hidden_size))
        rows = []
        for token in tokens:
            x = self._w["embedding.weight"][token]
            for layer in range(self.num_layers):
                x = self._cell(layer, x, h, c)
            rows.append(self._head(x))
        return np.stack(rows)

    def _cell(self, layer: int, x: Floats, h: Floats, c: Floats) -> Floats:
        w = self._w
        gates = w[f"rnn.weight_ih_l{layer}"] @ x + w[f"rnn.bias_ih_l{layer}"]
        gates += w[f"rnn.weight_hh_l{layer}"] @ h[layer] + w[f"rnn.bias_hh_l{layer}"]
        i, f, g, o = np.split(gates, 4)
        c[layer] = _sigmoid(f) * c[layer] + _sigmoid(i) * np.tanh(g)
        h[layer] = _sigmoid(o) * np.tanh(c[layer])
        output: Floats = h[layer]
        return output

    def _head(self, x: Floats) -> Floats:
        if "projection.weight" in self._w:
            x = self._w["projection.weight"] @ x + self._w["projection.bias"]
        logits = self._w["decoder.weight"] @ x + self._w["decoder.bias"]
        logits -= logits.max()
        normalised: Floats = logits - np.log(np.exp(logits).sum())
        return normalised


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))
