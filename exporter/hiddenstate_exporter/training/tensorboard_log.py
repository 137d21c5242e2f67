"""The curves of a run for TensorBoard: `tensorboard --logdir RUNS`."""

import logging
from pathlib import Path
from typing import Final

from hiddenstate_exporter.training.descent import Step

EVERY: Final = 10  # steps; their mean is one point


class TensorBoardLog:
    """Writes events below a run's folder; a run that goes on hides what an earlier one wrote beyond its step."""

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step or None, max_queue=1000)
        self._steps: list[Step] = []

    def step(self, number: int, step: Step, lr: float, tokens_per_s: float) -> None:
        """Takes note of a step, `number` counted from 1 over the whole run."""
        self._steps.append(step)
        if len(self._steps) < EVERY:
            return
        tokens = sum(one.tokens for one in self._steps)
        self._add("train/loss", sum(one.loss * one.tokens for one in self._steps) / max(tokens, 1), number)
        self._add("train/gradient_norm", sum(one.norm for one in self._steps) / EVERY, number)
        self._add("train/lr", lr, number)
        self._add("train/tokens_per_s", tokens_per_s, number)
        self._steps.clear()

    def validation(self, number: int, metric: str, value: float) -> None:
        """Takes note of a validation after step `number`."""
        self._add(f"valid/{metric}", value, number)
        self._writer.flush()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()

    def _add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)
