"""One step of gradient descent: loss, gradient, clipping, optimiser, average of weights, in a precision."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hiddenstate_exporter.training.optimizers import WeightAverage, make_optimizer
from hiddenstate_exporter.training.run_config import OptimizerConfig


@dataclass(frozen=True, slots=True)
class Step:
    """What a step was: the mean loss before it, over how many tokens, and the gradient's norm before clipping."""

    loss: float
    tokens: int
    norm: float

    @property
    def finite(self) -> bool:
        """Whether the weights were changed; they are not if this is false."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Descent:
    """The only owner of the optimiser."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, dtype: torch.dtype) -> None:
        self.model, self.config, self.dtype = model, config, dtype
        self.device_type = next(model.parameters()).device.type
        self._optimizer = make_optimizer(config, model.parameters())
        self._scaler = torch.amp.GradScaler(self.device_type, enabled=dtype == torch.float16)
        averaged = config.name == "nt-asgd"
        self.average = WeightAverage(list(model.parameters()), config.non_monotone) if averaged else None

    def step(self, loss_of: Callable[[], tuple[Tensor, int]], lr: float) -> Step:
        """Makes one step at a learning rate; `loss_of` computes the mean loss and tells how many tokens it covers."""
        self.model.train()
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            loss, tokens = loss_of()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        step = Step(loss.item(), tokens, norm.item())
        if step.finite or self._overflowed(step):
            self._scaler.step(self._optimizer)  # an overflow of float16 is left out, and the scale made smaller
            self._scaler.update()
        if step.finite and self.average is not None:
            self.average.on_step()
        return step if not self._overflowed(step) else Step(step.loss, tokens, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a step depends on, except weights and random generators."""
        return {
            "name": self.config.name,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned.

        Raises:
            ValueError: it is of another optimiser.
        """
        if state["name"] != self.config.name:
            raise ValueError(
                f"was trained with optimizer.name {state['name']}, not {self.config.name}; resume with the same"
            )
        configured = [dict(group) for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(dict(state["optimizer"]))
        for group, now in zip(self._optimizer.param_groups, configured, strict=True):
            group.update(now)  # betas, momentum and others may be changed when a run is resumed
        self._scaler.load_state_dict(dict(state["scaler"]))
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _overflowed(self, step: Step) -> bool:
        return self._scaler.is_enabled() and math.isfinite(step.loss) and not math.isfinite(step.norm)
