"""The sentence encoder: embedding, stack of recurrent layers, pooling, projection."""

from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.networks.pooling import make_pooling
from hiddenstate_exporter.networks.stack import advance, make_stack, set_forget_bias
from hiddenstate_exporter.networks.stack_config import StackConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceEncoderConfig(StackConfig):
    """Sizes and choices of a `SentenceEncoder`.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    dimension: int  # of the vectors
    pooling: Pooling = "mean"
    attention_heads: int = 4  # of attention pooling, as is the next
    attention_size: int = 128
    normalized: bool = True
    max_seq_length: int = 256  # tokens; longer sentences are cut
    bidirectional: bool = True
    projected: bool = True  # to `dimension`; otherwise the pooled outputs are the vectors

    def __post_init__(self) -> None:
        StackConfig.__post_init__(self)  # super() does not know a class with slots
        self.check_sizes("dimension", "attention_heads", "attention_size", "max_seq_length")
        self.check_choice("pooling", get_args(Pooling))
        if not self.projected and self.dimension != self.pooled_size:
            raise ValueError(
                f"dimension is {self.dimension}, but the pooled outputs have {self.pooled_size} components"
            )

    @property
    def pooled_size(self) -> int:
        """Width of a sentence's pooled outputs."""
        return self.shape.output_size * (self.attention_heads if self.pooling == "attention" else 1)


class SentenceEncoder(nn.Module):
    """Turns sentences into vectors. What stands behind a sentence's length never touches its vector."""

    def __init__(self, config: SentenceEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn = make_stack(config.shape, config.dropout)
        self.pooling = make_pooling(
            config.pooling, config.shape, attention_size=config.attention_size, heads=config.attention_heads
        )
        self.projection = nn.Linear(config.pooled_size, config.dimension) if config.projected else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)  # of the embeddings, and before the projection
        if config.forget_bias is not None:
            set_forget_bias(self.rnn, config.forget_bias)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Returns vectors [batch, dimension] of tokens int64 [batch, seq] with lengths int64 [batch], 1..seq."""
        embedded = self.dropout(self.embedding(tokens))  # [batch, seq, embedding_size]
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(advance(self.rnn, packed)[0], batch_first=True)
        pooled = self.pooling(outputs, lengths)  # [batch, pooled_size]
        vectors: Tensor = self.projection(self.dropout(pooled))  # [batch, dimension]
        return functional.normalize(vectors, dim=-1) if self.config.normalized else vectors
