"""The recurrent language model: embedding, LSTM stack, projection to the embedding's width, decoder.

Zaremba, Sutskever & Vinyals, "Recurrent Neural Network Regularization" (2014), for where dropout goes; Press & Wolf,
"Using the Output Embedding to Improve Language Models" (2017), for the tied decoder.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]  # h and c, each [num_layers, batch, hidden_size]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """The shape of a language model.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_layers: int
    cell: Literal["lstm"] = "lstm"
    tied: bool = True
    dropout: float = 0.0
    bidirectional: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, must be in [0, 1)")
        if self.cell != "lstm":
            raise ValueError(f"cell is {self.cell!r}, must be 'lstm'")
        if self.bidirectional:
            raise ValueError("a bidirectional model reads the next word, so it cannot predict it")

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


class LanguageModel(nn.Module):
    """Predicts the next token from all tokens before it."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
        )
        same_size = config.hidden_size == config.embedding_size
        self.projection = None if same_size else nn.Linear(config.hidden_size, config.embedding_size)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout)
        self._initialize()
        if config.tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns the logits [batch, seq, vocab_size] of each next token, and the state after the last one."""
        features, state = self.features(tokens, state)
        return self.decoder(features), state

    def features(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns what the decoder reads [batch, seq, embedding_size], and the state after the last token."""
        x = self.dropout(self.embedding(tokens))  # [batch, seq, embedding_size]
        outputs, state = self.rnn(x, state)  # [batch, seq, hidden_size]
        if self.projection is not None:
            outputs = self.projection(self.dropout(outputs))  # [batch, seq, embedding_size]
        return self.dropout(outputs), state

    def _initialize(self) -> None:
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("bias_ih"):  # forget gates start open: Jozefowicz et al. (2015)
                with torch.no_grad():
                    parameter[self.config.hidden_size : 2 * self.config.hidden_size].fill_(1.0)
