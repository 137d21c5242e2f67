"""How far back a loss is felt: the norm of its gradient at what was read k tokens before.

In a plain recurrent layer the gradient is multiplied with the recurrent weights and the slope of tanh at every step,
so it vanishes exponentially (Hochreiter, 1991; Bengio, Simard & Frasconi, 1994; Pascanu, Mikolov & Bengio, 2013). An
LSTM's cell state hands it on through the forget gate alone, and connections past the layers save it their depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.networks.stack import advance

VOCAB_SIZE = 1000  # of fresh models, which read random tokens


@dataclass(frozen=True, slots=True)
class Flow:
    """The norms of one model: `norms[k]` is the gradient's at the token k before the last one."""

    name: str
    cell: Cell
    connections: Connections
    norms: NDArray[np.float64]  # [distances], k = 0, 1, ...; the mean over contexts

    @property
    def reach(self) -> int:
        """The largest distance at which the gradient has a thousandth of its largest norm or more."""
        return int(np.flatnonzero(self.norms >= self.norms.max() / 1000).max())


def gradient_norms(model: LanguageModel, tokens: Tensor) -> NDArray[np.float64]:
    """Returns the mean norm of the gradient of the last token's loss, by distance, float64 [seq].

    The loss is that of predicting tokens[:, -1] from all before it; tokens int64 [contexts, seq + 1]. Each norm is of
    the gradient in the embedding of one token. Computed in float64, since norms of 1e-40 are of interest too.
    """
    model = model.double().eval()
    embedded = model.embedding(tokens[:, :-1]).detach().requires_grad_()  # [contexts, seq, embedding_size]
    outputs, _ = advance(model.rnn, embedded)
    logits = model.decoder(model.project(outputs[:, -1:]))[:, 0]  # [contexts, vocab_size]
    loss = functional.cross_entropy(logits, tokens[:, -1], reduction="sum")
    (gradient,) = torch.autograd.grad(loss, embedded)
    norms: NDArray[np.float64] = gradient.norm(dim=-1).mean(dim=0).flip(0).numpy()
    return norms


def fresh_flow(
    cell: Cell,
    connections: Connections,
    *,
    num_layers: int,
    hidden_size: int,
    forget_bias: float,
    distance: int,
    contexts: int,
    seed: int,
) -> Flow:
    """Measures a model with fresh weights on random tokens, 0 to `distance` back."""
    torch.manual_seed(seed)
    config = LanguageModelConfig(
        vocab_size=VOCAB_SIZE,
        embedding_size=hidden_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        cell=cell,
        connections=connections,
        forget_bias=forget_bias,
        projection_size=hidden_size,
    )
    model = LanguageModel(config)
    tokens = torch.randint(VOCAB_SIZE, (contexts, distance + 2))
    return Flow(_name(cell, connections), cell, connections, gradient_norms(model, tokens))


def trained_flow(name: str, model: LanguageModel, stream: Tensor, *, distance: int, contexts: int) -> Flow:
    """Measures a trained model on a text, int64 [tokens]: `contexts` places spread evenly over it.

    Raises:
        ValueError: the text is shorter than one context.
    """
    length = distance + 2
    if len(stream) < length:
        raise ValueError(f"{len(stream)} tokens of text, {length} are needed for a distance of {distance}")
    starts = torch.linspace(0, len(stream) - length, contexts).long()
    tokens = torch.stack([stream[start : start + length] for start in starts.tolist()])
    return Flow(name, model.config.cell, model.config.connections, gradient_norms(model, tokens))


def to_rows(flows: Sequence[Flow]) -> list[tuple[str, ...]]:
    """Returns the numbers as rows of a table, with a head: one column for each model."""
    head = ("distance", *(flow.name for flow in flows))
    columns = zip(*(flow.norms for flow in flows), strict=True)
    return [head, *((str(k), *(f"{norm:.6g}" for norm in norms)) for k, norms in enumerate(columns))]


def _name(cell: Cell, connections: Connections) -> str:
    return cell.upper() if connections == "none" else f"{cell.upper()}, {connections}"
