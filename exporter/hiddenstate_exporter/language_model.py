"""The recurrent language model: embedding, stack of recurrent layers, projection to the embedding's width, decoder.

Zaremba, Sutskever & Vinyals, "Recurrent Neural Network Regularization" (2014), for where dropout goes; Press & Wolf,
"Using the Output Embedding to Improve Language Models" (2017), for the tied decoder.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from hiddenstate_exporter.stack import State, advance, make_stack, set_forget_bias
from hiddenstate_exporter.stack_config import StackConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig(StackConfig):
    """The shape of a language model.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    tied: bool = True
    forget_bias: float | None = 1.0

    def __post_init__(self) -> None:
        StackConfig.__post_init__(self)  # super() does not know a class with slots
        if self.bidirectional:
            raise ValueError("a bidirectional model reads the next word, so it cannot predict it")


class LanguageModel(nn.Module):
    """Predicts the next token from all tokens before it."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        output_size = config.shape.output_size
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn = make_stack(config.shape, config.dropout)
        same_size = output_size == config.embedding_size
        self.projection = None if same_size else nn.Linear(output_size, config.embedding_size)
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
        outputs, state = self.outputs(tokens, state)
        return self.project(outputs), state

    def outputs(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns what the recurrent layers give [batch, seq, output_size], and the state after the last token."""
        return advance(self.rnn, self.dropout(self.embedding(tokens)), state)

    def project(self, outputs: Tensor) -> Tensor:
        """Returns what the decoder reads [..., embedding_size] of outputs [..., output_size]."""
        if self.projection is not None:
            outputs = self.projection(self.dropout(outputs))
        features: Tensor = self.dropout(outputs)
        return features

    def _initialize(self) -> None:
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        if self.config.forget_bias is not None:
            set_forget_bias(self.rnn, self.config.forget_bias)
