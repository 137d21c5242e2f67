"""The sentence encoder: embedding, bidirectional LSTM, pooling, projection."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

Pooling = Literal["mean", "max", "last"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceEncoderConfig:
    """Sizes and choices of a `SentenceEncoder`.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int  # of one direction
    num_layers: int
    dimension: int  # of the vectors
    pooling: Pooling = "mean"
    normalized: bool = True
    max_seq_length: int = 256  # tokens; longer sentences are cut
    dropout: float = 0.0  # in training only: of the embeddings, between layers and before the projection
    cell: Literal["lstm"] = "lstm"
    bidirectional: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_layers", "dimension", "max_seq_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, not {self.dropout}")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, not {self.pooling!r}")
        if self.cell != "lstm":
            raise ValueError(f"cell must be lstm, not {self.cell!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Reads the `config` of a checkpoint; raises ValueError for an unknown or missing field."""
        unknown = values.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values."""
        return asdict(self)


class SentenceEncoder(nn.Module):
    """Turns sentences into vectors. What stands behind a sentence's length never touches its vector."""

    def __init__(self, config: SentenceEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
            bidirectional=config.bidirectional,
        )
        directions = 2 if config.bidirectional else 1
        self.projection = nn.Linear(directions * config.hidden_size, config.dimension)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Returns vectors float32 [batch, dimension] of tokens int64 [batch, seq] with lengths int64 [batch], 1..seq.

        `last` pooling takes each direction where it ends: forwards at the last token, backwards at the first.
        """
        embedded = self.dropout(self.embedding(tokens))  # [batch, seq, embedding_size]
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, (hidden, _) = self.rnn(packed)
        pooled = self._pool(outputs, hidden, lengths)  # [batch, directions * hidden_size]
        vectors: Tensor = self.projection(self.dropout(pooled))  # [batch, dimension]
        return functional.normalize(vectors, dim=-1) if self.config.normalized else vectors

    def _pool(self, packed: PackedSequence, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Pools the top layer's outputs; `hidden` [layers * directions, batch, hidden_size] ends each direction."""
        if self.config.pooling == "last":
            directions = 2 if self.config.bidirectional else 1
            return torch.cat(hidden[-directions:].unbind(), dim=-1)
        padding = -torch.inf if self.config.pooling == "max" else 0.0
        outputs, _ = pad_packed_sequence(packed, batch_first=True, padding_value=padding)
        if self.config.pooling == "max":
            return outputs.amax(dim=1)
        return outputs.sum(dim=1) / lengths.to(outputs)[:, None]
