"""What the AWD-LSTM adds to training: masks that last, and recurrent weights that are dropped."""

from typing import Any

import pytest
import torch

from architectures import STACKS
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.networks.dropout import LockedDropout, WordDropout, drop_weights
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.networks.regularization import Regularization

VOCAB = 20


def make(cell: Cell = "lstm", connections: Connections = "none", **regularization: Any) -> LanguageModel:
    torch.manual_seed(3)
    config = LanguageModelConfig(
        vocab_size=VOCAB, embedding_size=6, hidden_size=8, num_layers=3, cell=cell, connections=connections
    )
    return LanguageModel(config, Regularization(**regularization))


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (4, 9), generator=torch.Generator().manual_seed(seed))


def test_a_locked_mask_is_one_for_all_steps_and_another_for_each_row() -> None:
    torch.manual_seed(0)
    dropped = LockedDropout(0.5)(torch.ones(5, 7, 64))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert not torch.equal(dropped[0], dropped[1])
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert LockedDropout(0.5).eval()(dropped) is dropped


def test_a_dropped_word_is_dropped_wherever_it_stands() -> None:
    torch.manual_seed(0)
    ids = tokens()
    dropped = WordDropout(0.5)(torch.ones(4, 9, 3), ids, VOCAB)
    by_word = [set(dropped[ids == word].flatten().tolist()) for word in range(VOCAB) if (ids == word).any()]
    assert all(len(values) == 1 for values in by_word)
    assert set.union(*by_word) == {0.0, 2.0}


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_layer_by_layer_and_without_drop_it_computes_what_the_plain_stack_does(
    cell: Cell, connections: Connections
) -> None:
    plain, locked = make(cell, connections, dropout=0.0), make(cell, connections, dropout=0.0, locked=True)
    state = None
    for part in (tokens(0), tokens(1)):
        expected, other = plain.features(part, state)
        actual, final = locked.features(part, state)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(final, other)
        state = tuple(values.detach() for values in final)
    one, two = (
        torch.autograd.grad(features.sum(), list(model.rnn.parameters()))
        for features, model in ((actual, locked), (expected, plain))
    )
    torch.testing.assert_close(one, two)


def test_dropping_weights_keeps_their_mean() -> None:
    torch.manual_seed(0)
    dropped = drop_weights(torch.ones(300, 300), 0.25)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert dropped.max().item() == pytest.approx(4 / 3)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_dropped_recurrent_weights_are_zero_in_all_steps_of_a_window(cell: Cell) -> None:
    model, reference = make(cell, dropout=0.0, weight_drop=0.5), make(cell, dropout=0.0)
    torch.manual_seed(5)
    actual, _ = model.outputs(tokens())
    torch.manual_seed(5)
    with torch.no_grad():
        for layer in range(3):
            weight = getattr(reference.rnn, f"weight_hh_l{layer}")
            weight.copy_(drop_weights(weight, 0.5))
    torch.testing.assert_close(actual, reference.outputs(tokens())[0])
    torch.manual_seed(6)
    assert not torch.allclose(actual, model.outputs(tokens())[0])


def test_the_gradient_of_a_dropped_weight_is_zero_and_that_of_others_is_not() -> None:
    model = make(dropout=0.0, weight_drop=0.5)
    torch.manual_seed(5)
    weight = model.rnn.get_parameter("weight_hh_l0")
    (gradient,) = torch.autograd.grad(model.outputs(tokens())[0].square().sum(), weight)
    torch.manual_seed(5)
    kept = drop_weights(torch.ones_like(weight), 0.5) > 0
    assert torch.equal(gradient == 0, ~kept)


@pytest.mark.parametrize(("cell", "connections"), [("lstm", "none"), ("gru", "dense")])
def test_nothing_is_dropped_when_a_model_is_used(cell: Cell, connections: Connections) -> None:
    everything = {"dropout": 0.5, "locked": True, "embedding_dropout": 0.3, "weight_drop": 0.5}
    regularised, plain = make(cell, connections, **everything).eval(), make(cell, connections, dropout=0.0).eval()
    torch.testing.assert_close(regularised(tokens())[0], plain(tokens())[0])
    assert regularised.state_dict().keys() == plain.state_dict().keys()


def test_each_place_has_its_own_share_or_the_common_one() -> None:
    given = Regularization(dropout=0.1, hidden_dropout=0.3, output_dropout=0.0)
    assert (given.of_input, given.of_hidden, given.of_output) == (0.1, 0.3, 0.0)
    assert not given.by_layer
    assert Regularization(weight_drop=0.1).by_layer
