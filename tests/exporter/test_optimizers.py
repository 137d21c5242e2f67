"""Optimisers, and when and what NT-ASGD averages."""

from typing import Any

import pytest
import torch
from torch import nn

from hiddenstate_exporter.training.descent import Descent
from hiddenstate_exporter.training.optimizers import WeightAverage
from hiddenstate_exporter.training.run_config import OptimizerConfig


def make_line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def descend(config: OptimizerConfig, steps: int = 3) -> list[torch.Tensor]:
    model = make_line()
    descent = Descent(model, config, torch.float32)
    x = torch.tensor([[1.0, 2.0]])
    for _ in range(steps):
        descent.step(lambda: (model(x).square().sum(), 1), config.lr)
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        ({"name": "sgd", "weight_decay": 0.1, "momentum": 0.5}, lambda p: torch.optim.SGD(p, 0.05, 0.5, 0.0, 0.1)),
        ({"name": "adam", "weight_decay": 0.1}, lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.1)),
        ({"name": "adamw", "betas": (0.5, 0.9)}, lambda p: torch.optim.AdamW(p, 0.05, (0.5, 0.9), weight_decay=0.01)),
    ],
)
def test_each_optimiser_makes_the_steps_of_pytorchs(config: dict[str, Any], reference: Any) -> None:
    model = make_line()
    optimizer, x = reference(model.parameters()), torch.tensor([[1.0, 2.0]])
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    for actual, expected in zip(descend(OptimizerConfig(lr=0.05, clip=1e9, **config)), model.parameters(), strict=True):
        torch.testing.assert_close(actual, expected.detach())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"weight_decay": 0.5}),
        ("adam", {"betas": (0.1, 0.2)}),
        ("adamw", {"betas": (0.1, 0.2)}),
    ],
)
def test_what_is_changed_at_a_resumption_has_an_effect(name: Any, change: dict[str, Any]) -> None:
    def resumed(**changes: Any) -> torch.Tensor:
        model, x = make_line(), torch.tensor([[1.0, 2.0]])
        first = Descent(model, OptimizerConfig(name=name), torch.float32)
        first.step(lambda: (model(x).square().sum(), 1), 0.05)
        second = Descent(model, OptimizerConfig(name=name, **changes), torch.float32)
        second.load_state_dict(first.state_dict())
        for _ in range(2):
            second.step(lambda: (model(x).square().sum(), 1), 0.05)
        return model.weight.detach()

    assert torch.equal(resumed(), resumed())
    assert not torch.equal(resumed(), resumed(**change))


def test_averaging_begins_when_validation_is_worse_than_all_but_the_last_ones() -> None:
    average = WeightAverage(list(make_line().parameters()), non_monotone=2)
    begun = [average.on_validation(number) for number in (9.0, 8.0, 7.0, 7.5, 7.2, 7.1, 6.0)]
    # 7.1 is compared with 9, 8 and 7: all but the last two (7.5, 7.2)
    assert begun == [False] * 5 + [True, False]


def test_the_average_is_the_mean_of_the_weights_since_it_began() -> None:
    weight = nn.Parameter(torch.zeros(1))
    average = WeightAverage([weight], non_monotone=1)
    average.on_step()
    assert not average.triggered
    assert [average.on_validation(number) for number in (1.0, 1.5, 2.0)] == [False, False, True]
    seen = [0.0]
    for value in (1.0, 2.0, 6.0):
        with torch.no_grad():
            weight.fill_(value)
        average.on_step()
        seen.append(value)
    with average.in_place():
        assert weight.item() == pytest.approx(sum(seen) / 4)
    assert weight.item() == 6.0


def test_an_average_goes_on_where_it_was_saved() -> None:
    weight = nn.Parameter(torch.zeros(1))
    first, second = WeightAverage([weight], non_monotone=1), WeightAverage([weight], non_monotone=1)
    for number in (1.0, 1.5, 2.0):
        first.on_validation(number)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        weight.fill_(5.0)
    for average in (first, second):
        average.on_step()
        with average.in_place():
            assert weight.item() == 2.5


def test_a_step_whose_gradient_is_not_finite_changes_no_weight() -> None:
    model = make_line()
    before = [parameter.clone() for parameter in model.parameters()]
    descent = Descent(model, OptimizerConfig(), torch.float32)
    step = descent.step(lambda: (model(torch.tensor([[float("inf"), 1.0]])).sum(), 1), 0.1)
    assert not step.finite
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_state_of_another_optimiser_is_refused() -> None:
    state = Descent(make_line(), OptimizerConfig(name="sgd"), torch.float32).state_dict()
    with pytest.raises(ValueError, match=r"was trained with optimizer\.name sgd, not adam"):
        Descent(make_line(), OptimizerConfig(name="adam"), torch.float32).load_state_dict(state)
