"""The learning rate over a run."""

import math
from collections.abc import Mapping
from typing import Any, Literal

FLOOR = 0.01  # the cosine ends at this part of the peak
DECAY = 0.5  # of the learning rate, for each validation without progress ("plateau")


class Schedule:
    """Warm-up, then a half cosine over the budget of steps or seconds (the one used up faster), or decay on plateau.

    The cosine is the one of Loshchilov & Hutter, "SGDR" (2017), without restarts.
    """

    def __init__(
        self,
        *,
        kind: Literal["cosine", "plateau"],
        lr: float,
        warmup_steps: int,
        max_steps: int,
        max_seconds: float | None,
    ) -> None:
        self._kind, self._lr, self._warmup_steps = kind, lr, warmup_steps
        self._max_steps, self._max_seconds = max_steps, max_seconds
        self._factor = 1.0

    def at(self, step: int, seconds: float) -> float:
        """Returns the learning rate of a step (counted from 0 over the whole run)."""
        warmup = min(1.0, (step + 1) / max(self._warmup_steps, 1))
        return self._lr * self._factor * warmup * (self._cosine(step, seconds) if self._kind == "cosine" else 1.0)

    def on_no_improvement(self) -> None:
        """Takes note of a validation that brought nothing."""
        if self._kind == "plateau":
            self._factor *= DECAY

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self._factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._factor = state["factor"]

    def _cosine(self, step: int, seconds: float) -> float:
        used = step / max(self._max_steps, 1)
        if self._max_seconds is not None:
            used = max(used, seconds / self._max_seconds)
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(used, 1.0)))
