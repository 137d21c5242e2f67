"""Optimisers, and the average of weights that NT-ASGD validates and keeps.

NT-ASGD, non-monotonically triggered averaged SGD, is of Merity, Keskar & Socher, "Regularizing and Optimizing LSTM
Language Models" (2017), after Polyak & Juditsky (1992): plain SGD at a constant rate until validation is worse than the
best of all but the last `non_monotone` ones; from then on the mean of all later weights is what counts.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiddenstate_exporter.training.run_config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Makes the optimiser of a run; fused, since it is memory that bounds them."""
    if config.name in ("sgd", "nt-asgd"):
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


class WeightAverage:
    """The mean of a model's weights since it was triggered."""

    def __init__(self, parameters: Sequence[nn.Parameter], non_monotone: int) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._non_monotone = non_monotone
        self._history: list[float] = []
        self._mean: list[Tensor] = []  # empty until triggered
        self._count = 0

    @property
    def triggered(self) -> bool:
        """Whether averaging has begun."""
        return bool(self._mean)

    def on_validation(self, number: float) -> bool:
        """Takes note of a validation of the plain weights; returns whether averaging begins with it."""
        if self.triggered:
            return False
        due = len(self._history) > self._non_monotone and number > min(self._history[: -self._non_monotone])
        self._history.append(number)
        if due:
            self._mean = [parameter.detach().clone() for parameter in self._parameters]
            self._count = 1
        return due

    @torch.no_grad()
    def on_step(self) -> None:
        """Takes the weights after a step into the mean."""
        if self.triggered:
            self._count += 1
            torch._foreach_lerp_(self._mean, self._parameters, 1 / self._count)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the mean, once there is one, in the place of the weights."""
        if not self.triggered:
            yield
            return
        plain = [parameter.detach().clone() for parameter in self._parameters]
        self._set(self._mean)
        try:
            yield
        finally:
            self._set(plain)

    def state_dict(self) -> dict[str, Any]:
        return {"history": list(self._history), "mean": list(self._mean), "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._history, self._count = list(state["history"]), state["count"]
        self._mean = [mean.to(p.device, copy=True) for mean, p in zip(state["mean"], self._parameters, strict=False)]

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
