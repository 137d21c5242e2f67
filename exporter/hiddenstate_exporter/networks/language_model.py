"""The recurrent language model: embedding, stack of recurrent layers, projection to the embedding's width, decoder.

Zaremba, Sutskever & Vinyals, "Recurrent Neural Network Regularization" (2014), for where dropout goes; Press & Wolf,
"Using the Output Embedding to Improve Language Models" (2017), for the tied decoder.
"""

from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from hiddenstate_exporter.networks.adaptive_softmax import DIV_VALUE, AdaptiveSoftmax, Head, check_clusters
from hiddenstate_exporter.networks.dropout import WordDropout, make_dropout
from hiddenstate_exporter.networks.regularization import Regularization
from hiddenstate_exporter.networks.stack import State, advance, advance_regularized, make_stack, set_forget_bias
from hiddenstate_exporter.networks.stack_config import StackConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig(StackConfig):
    """The shape of a language model.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    tied: bool = True
    forget_bias: float | None = 1.0
    projection_size: int | None = None  # before the decoder; 0: no projection; None: embedding_size, if not so already
    head: Head = "softmax"
    cutoffs: tuple[int, ...] = ()  # of an adaptive softmax, as is the next: see `AdaptiveSoftmax`
    div_value: float = DIV_VALUE

    def __post_init__(self) -> None:
        StackConfig.__post_init__(self)  # super() does not know a class with slots
        if self.bidirectional:
            raise ValueError("a bidirectional model reads the next word, so it cannot predict it")
        self.check_choice("head", get_args(Head))
        if self.head == "adaptive_softmax":
            check_clusters(self.features_size, self.vocab_size, self.cutoffs, self.div_value)
        elif self.cutoffs:
            raise ValueError("cutoffs are of the head adaptive_softmax only")
        if self.tied and (self.head != "softmax" or self.features_size != self.embedding_size):
            raise ValueError("tied is true, but the decoder has no table of the embedding's shape: make it false")

    @property
    def features_size(self) -> int:
        """Width of what the decoder reads."""
        if self.projection_size is None:
            return self.embedding_size
        return self.projection_size or self.shape.output_size

    @property
    def has_projection(self) -> bool:
        """Whether a linear layer stands between the recurrent layers and the decoder."""
        if self.projection_size is None:
            return self.shape.output_size != self.embedding_size
        return self.projection_size > 0


class LanguageModel(nn.Module):
    """Predicts the next token from all tokens before it."""

    def __init__(self, config: LanguageModelConfig, regularization: Regularization | None = None) -> None:
        """Makes a model with fresh weights; without `regularization`, dropout is what `config` says."""
        super().__init__()
        self.config = config
        self.regularization = regularization or Regularization(dropout=config.dropout)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn = make_stack(config.shape, self.regularization.of_hidden)
        features_size = config.features_size
        self.projection = nn.Linear(config.shape.output_size, features_size) if config.has_projection else None
        self.decoder = _make_decoder(config)
        locked = self.regularization.locked
        self.word_dropout = WordDropout(self.regularization.embedding_dropout)
        self.input_dropout = make_dropout(self.regularization.of_input, locked=locked)
        self.hidden_dropout = make_dropout(self.regularization.of_hidden, locked=locked)
        self.output_dropout = make_dropout(self.regularization.of_output, locked=locked)
        self._initialize()
        if config.tied:
            assert isinstance(self.decoder, nn.Linear)  # the config has checked it
            self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns the logits [batch, seq, vocab_size] of each next token, and the state after the last one.

        Those of an adaptive softmax are log probabilities.
        """
        features, state = self.features(tokens, state)
        return self.decoder(features), state

    def features(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns what the decoder reads [batch, seq, features_size], and the state after the last token."""
        features, _, state = self.features_and_outputs(tokens, state)
        return features, state

    def features_and_outputs(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """Returns what the decoder reads, what the recurrent layers give (`outputs`), and the state."""
        outputs, state = self.outputs(tokens, state)
        return self.project(outputs), outputs, state

    def outputs(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns what the recurrent layers give [batch, seq, output_size], and the state after the last token."""
        x = self.word_dropout(self.embedding(tokens), tokens, self.config.vocab_size)
        x = self.input_dropout(x)
        if not (self.training and self.regularization.by_layer):
            return advance(self.rnn, x, state)
        return advance_regularized(
            self.rnn, x, state, dropout=self.hidden_dropout, weight_drop=self.regularization.weight_drop
        )

    def project(self, outputs: Tensor) -> Tensor:
        """Returns what the decoder reads [batch, seq, features_size] of outputs [batch, seq, output_size]."""
        if self.projection is not None:
            outputs = self.projection(self.output_dropout(outputs))
        features: Tensor = self.output_dropout(outputs)
        return features

    def _initialize(self) -> None:
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if isinstance(self.decoder, nn.Linear):
            nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
            nn.init.zeros_(self.decoder.bias)
        if self.config.forget_bias is not None:
            set_forget_bias(self.rnn, self.config.forget_bias)


def _make_decoder(config: LanguageModelConfig) -> nn.Linear | AdaptiveSoftmax:
    if config.head == "softmax":
        return nn.Linear(config.features_size, config.vocab_size)
    return AdaptiveSoftmax(config.features_size, config.vocab_size, config.cutoffs, config.div_value)
