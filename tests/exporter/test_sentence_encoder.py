"""The sentence encoder in PyTorch, against the same weights run one sentence at a time without padding."""

import pytest
import torch

from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoder, SentenceEncoderConfig

CONFIG = SentenceEncoderConfig(vocab_size=30, embedding_size=6, hidden_size=5, num_layers=2, dimension=7)
POOLINGS: tuple[Pooling, ...] = ("mean", "max", "last")
LENGTHS = torch.tensor([4, 1, 9, 6])
TOLERANCE = 1e-6


def model_of(pooling: Pooling = "mean", **changes: object) -> SentenceEncoder:
    torch.manual_seed(3)
    return SentenceEncoder(SentenceEncoderConfig.from_dict(CONFIG.to_dict() | {"pooling": pooling, **changes})).eval()


def tokens_of(seq_len: int = 9) -> torch.Tensor:
    return torch.randint(30, (4, seq_len), generator=torch.Generator().manual_seed(1))


def reference(model: SentenceEncoder, tokens: torch.Tensor) -> torch.Tensor:
    """Runs one sentence [seq] on its own."""
    outputs, (hidden, _) = model.rnn(model.embedding(tokens[None]))
    pooled = {
        "mean": outputs[0].mean(0),
        "max": outputs[0].max(0).values,
        "last": torch.cat([hidden[-2, 0], hidden[-1, 0]]),
    }[model.config.pooling]
    vector: torch.Tensor = model.projection(pooled)
    return torch.nn.functional.normalize(vector, dim=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_sentence_gets_the_same_vector_in_a_ragged_batch_as_alone(pooling: Pooling) -> None:
    model, tokens = model_of(pooling), tokens_of()
    vectors = model(tokens, LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = reference(model, tokens[row, :length])
        assert (vectors[row] - alone).abs().max() < TOLERANCE


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_stands_after_a_sentence_is_never_read(pooling: Pooling) -> None:
    model, tokens = model_of(pooling), tokens_of()
    behind = torch.arange(9) >= LENGTHS[:, None]
    assert torch.equal(model(tokens, LENGTHS), model(tokens.masked_fill(behind, 29), LENGTHS))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_beyond_the_longest_sentence_changes_nothing(pooling: Pooling) -> None:
    model, tokens = model_of(pooling), tokens_of()
    padded = torch.cat([tokens, torch.zeros(4, 5, dtype=torch.int64)], dim=1)
    assert torch.equal(model(tokens, LENGTHS), model(padded, LENGTHS))


def test_vectors_have_length_one_only_if_normalized() -> None:
    tokens = tokens_of()
    raw = model_of(normalized=False)(tokens, LENGTHS)
    assert (raw.norm(dim=1) - 1).abs().min() > 0.01
    unit = model_of()(tokens, LENGTHS)
    assert torch.allclose(unit, raw / raw.norm(dim=1, keepdim=True), atol=TOLERANCE)


def test_one_direction_is_possible_too() -> None:
    model = model_of("last", bidirectional=False)
    assert model.projection.in_features == 5
    assert model(tokens_of(), LENGTHS).shape == (4, 7)


def test_dropout_acts_in_training_only() -> None:
    model, tokens = model_of(dropout=0.5), tokens_of()
    assert torch.equal(model(tokens, LENGTHS), model(tokens, LENGTHS))
    model.train()
    assert not torch.equal(model(tokens, LENGTHS), model(tokens, LENGTHS))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("dimension", -1),
        ("max_seq_length", 0),
        ("dropout", 1.0),
        ("pooling", "sum"),
        ("cell", "gated"),
        ("colour", "red"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SentenceEncoderConfig.from_dict(CONFIG.to_dict() | {field: value})


def test_a_missing_field_is_named() -> None:
    fields = CONFIG.to_dict()
    del fields["hidden_size"]
    with pytest.raises(ValueError, match="hidden_size"):
        SentenceEncoderConfig.from_dict(fields)
