"""A language model in plain numpy: the independent computation that the served one is held against."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.weights import Weights

Floats = NDArray[np.float64]
State = list[tuple[Floats, Floats]]  # h and c of each layer; c is of LSTM cells only


@dataclasses.dataclass
class ReferenceModel:
    """A stack of recurrent layers with tied embeddings, in float64, one token at a time."""

    weights: Weights
    num_layers: int
    cell: str = "lstm"
    connections: str = "none"

    def __post_init__(self) -> None:
        # Bundles store half precision; the reference computes with what is stored.
        self._w = {name: array.astype(np.float16).astype(np.float64) for name, array in self.weights.items()}

    def log_probs(self, tokens: list[int]) -> Floats:
        """Returns the log probabilities after each token [seq, vocab_size]."""
        hidden_size = self._w["rnn.weight_hh_l0"].shape[1]
        state = [(np.zeros(hidden_size), np.zeros(hidden_size)) for _ in range(self.num_layers)]
        return np.stack([self._head(self._stack(self._w["embedding.weight"][token], state)) for token in tokens])

    def _stack(self, x: Floats, state: State) -> Floats:
        """Returns the stack's output for one token, and replaces the state."""
        outputs: list[Floats] = []
        embedding = x
        for layer in range(self.num_layers):
            state[layer] = self._cell(layer, x, *state[layer])
            h = state[layer][0]
            outputs.append(h)
            if self.connections == "dense":
                x = np.concatenate([embedding, *outputs])
            elif self.connections == "residual" and layer > 0:
                x = h + x
            elif self.connections == "highway" and layer > 0:
                t = _sigmoid(self._w[f"rnn.highway_l{layer}.weight"] @ x + self._w[f"rnn.highway_l{layer}.bias"])
                x = t * h + (1 - t) * x
            else:
                x = h
        return np.concatenate(outputs) if self.connections == "dense" else x

    def _cell(self, layer: int, x: Floats, h: Floats, c: Floats) -> tuple[Floats, Floats]:
        w = self._w
        from_input = w[f"rnn.weight_ih_l{layer}"] @ x + w[f"rnn.bias_ih_l{layer}"]
        from_state = w[f"rnn.weight_hh_l{layer}"] @ h + w[f"rnn.bias_hh_l{layer}"]
        if self.cell == "rnn":
            return np.tanh(from_input + from_state), c
        if self.cell == "gru":
            size = len(h)
            r, z = np.split(_sigmoid(from_input[: 2 * size] + from_state[: 2 * size]), 2)
            n = np.tanh(from_input[2 * size :] + r * from_state[2 * size :])
            return (1 - z) * n + z * h, c
        i, f, g, o = np.split(from_input + from_state, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(c), c

    def _head(self, x: Floats) -> Floats:
        if "projection.weight" in self._w:
            x = self._w["projection.weight"] @ x + self._w["projection.bias"]
        logits = self._w["decoder.weight"] @ x + self._w["decoder.bias"]
        logits -= logits.max()
        normalised: Floats = logits - np.log(np.exp(logits).sum())
        return normalised


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))
