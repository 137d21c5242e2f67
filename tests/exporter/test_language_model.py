"""The recurrent language model."""

from typing import Any

import pytest
import torch

from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig


def make_config(**changes: Any) -> LanguageModelConfig:
    return LanguageModelConfig(**({"vocab_size": 20, "embedding_size": 6, "hidden_size": 8, "num_layers": 2} | changes))


def make_model(**changes: Any) -> LanguageModel:
    torch.manual_seed(3)
    return LanguageModel(make_config(**changes)).eval()


def test_the_shapes_are_those_of_the_config() -> None:
    model = make_model()
    logits, (h, c) = model(torch.randint(20, (3, 5)))
    assert logits.shape == (3, 5, 20)
    assert h.shape == c.shape == (2, 3, 8)


def test_the_modules_have_the_names_that_the_exporter_reads() -> None:
    names = {name.split(".")[0] for name in make_model().state_dict()}
    assert names == {"embedding", "rnn", "projection", "decoder"}


def test_there_is_no_projection_where_the_sizes_are_equal() -> None:
    model = make_model(embedding_size=8)
    assert model.projection is None
    assert model(torch.zeros(1, 1, dtype=torch.int64))[0].shape == (1, 1, 20)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_decoder_shares_the_embedding_and_an_untied_one_does_not(tied: bool) -> None:
    model = make_model(tied=tied)
    assert (model.decoder.weight is model.embedding.weight) is tied


def test_a_text_read_in_pieces_gives_the_same_logits_as_in_one() -> None:
    model = make_model()
    tokens = torch.randint(20, (2, 9))
    whole, state = model(tokens)
    first, carried = model(tokens[:, :4])
    second, carried = model(tokens[:, 4:], carried)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(carried, state)


def test_a_prediction_does_not_depend_on_later_tokens() -> None:
    model = make_model()
    tokens = torch.randint(20, (1, 6))
    changed = tokens.clone()
    changed[0, 4] = (changed[0, 4] + 1) % 20
    before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_dropout_acts_only_in_training() -> None:
    model = make_model(dropout=0.5)
    tokens = torch.randint(20, (1, 6))
    assert torch.equal(model(tokens)[0], model(tokens)[0])
    model.train()
    assert not torch.equal(model(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bidirectional": True}, "a bidirectional model reads the next word, so it cannot predict it"),
        ({"hidden_size": 0}, "hidden_size is 0, must be 1 or more"),
        ({"num_layers": -1}, "num_layers is -1"),
        ({"dropout": 1.0}, r"dropout is 1.0, must be in \[0, 1\)"),
        ({"cell": "transformer"}, "cell is 'transformer', must be rnn, lstm or gru"),
    ],
)
def test_impossible_shapes_are_refused_with_the_field(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_config(**changes)


def test_a_config_survives_its_plain_form() -> None:
    config = make_config(tied=False, dropout=0.1)
    assert LanguageModelConfig.from_dict(config.to_dict()) == config


def test_a_plain_config_with_unknown_or_missing_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown field heads"):
        LanguageModelConfig.from_dict(make_config().to_dict() | {"heads": 4})
    with pytest.raises(ValueError, match="hidden_size"):
        LanguageModelConfig.from_dict({"vocab_size": 20, "embedding_size": 6, "num_layers": 1})
