"""Pooling in PyTorch: the outputs of a sentence's tokens become one vector. Padding never counts."""

import torch
from torch import Tensor, nn

from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import StackShape


class MeanPooling(nn.Module):
    """The mean over the valid positions."""

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """Pools outputs [batch, seq, width] with lengths int64 [batch] to [batch, width]."""
        masked = outputs.masked_fill(~valid_positions(outputs, lengths), 0.0)
        return masked.sum(dim=1) / lengths.to(outputs)[:, None]


class MaxPooling(nn.Module):
    """The largest value of each component over the valid positions."""

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """Pools outputs [batch, seq, width] with lengths int64 [batch] to [batch, width]."""
        return outputs.masked_fill(~valid_positions(outputs, lengths), -torch.inf).amax(dim=1)


class LastPooling(nn.Module):
    """Each direction where it ends: forwards at the last token, backwards at the first."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self._hidden_size, self._bidirectional = shape.hidden_size, shape.bidirectional

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """Pools outputs [batch, seq, width] with lengths int64 [batch] to [batch, width]."""
        last = outputs[torch.arange(len(outputs), device=outputs.device), lengths - 1]  # [batch, width]
        if not self._bidirectional:
            return last
        by_direction = (len(outputs), -1, 2, self._hidden_size)  # both directions of each layer
        forwards, backwards = last.view(by_direction)[:, :, 0], outputs[:, 0].reshape(by_direction)[:, :, 1]
        return torch.stack([forwards, backwards], dim=2).flatten(1)


class AttentionPooling(nn.Module):
    """Weighted sums, one for each head, side by side; the weights are a softmax over the valid positions.

    Lin et al., "A Structured Self-Attentive Sentence Embedding" (2017): softmax(W2 tanh(W1 outputs)).
    """

    def __init__(self, width: int, attention_size: int, heads: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, attention_size, bias=False)
        self.w2 = nn.Linear(attention_size, heads, bias=False)

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """Pools outputs [batch, seq, width] with lengths int64 [batch] to [batch, heads * width]."""
        valid = valid_positions(outputs, lengths)
        scores = self.w2(torch.tanh(self.w1(outputs))).masked_fill(~valid, -torch.inf)  # [batch, seq, heads]
        sums: Tensor = scores.softmax(dim=1).transpose(1, 2) @ outputs.masked_fill(~valid, 0.0)  # [batch, heads, width]
        return sums.flatten(1)


def make_pooling(pooling: Pooling, shape: StackShape, *, attention_size: int, heads: int) -> nn.Module:
    """Makes the pooling of a stack's outputs; the last two arguments are of attention only."""
    if pooling == "attention":
        return AttentionPooling(shape.output_size, attention_size, heads)
    if pooling == "last":
        return LastPooling(shape)
    return MeanPooling() if pooling == "mean" else MaxPooling()


def valid_positions(outputs: Tensor, lengths: Tensor) -> Tensor:
    """Returns bool [batch, seq, 1]: whether a position lies within its sentence."""
    positions = torch.arange(outputs.shape[1], device=outputs.device)
    return (positions < lengths.to(outputs.device)[:, None])[..., None]
