"""The learning rate over a run."""

import math
from collections.abc import Mapping
from typing import Any

from hiddenstate_exporter.training.run_config import ScheduleConfig


class Schedule:
    """Warm-up, then a fall over the budget of steps or seconds (the one used up faster), decay on plateau, or neither.

    The half cosine is the one of Loshchilov & Hutter, "SGDR" (2017), without restarts.
    """

    def __init__(self, config: ScheduleConfig, *, lr: float, max_steps: int, max_seconds: float | None) -> None:
        self._config, self._lr = config, lr
        self._max_steps, self._max_seconds = max_steps, max_seconds
        self._factor = 1.0

    def at(self, step: int, seconds: float) -> float:
        """Returns the learning rate of a step (counted from 0 over the whole run)."""
        warmup = min(1.0, (step + 1) / max(self._config.warmup_steps, 1))
        return self._lr * self._factor * warmup * self._fall(step, seconds)

    def on_no_improvement(self) -> None:
        """Takes note of a validation that brought nothing."""
        if self._config.kind == "plateau":
            self._factor *= self._config.decay

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self._factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._factor = state["factor"]

    def _fall(self, step: int, seconds: float) -> float:
        used = step / max(self._max_steps, 1)
        if self._max_seconds is not None:
            used = max(used, seconds / self._max_seconds)
        used, floor = min(used, 1.0), self._config.floor
        if self._config.kind == "cosine":
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * used))
        return floor + (1 - floor) * (1 - used) if self._config.kind == "linear" else 1.0
