"""What a person sees of a training run, and its log file."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SMOOTHING = 0.98  # of the shown loss and speed


class Reporter:
    """A progress bar per epoch (on a terminal) and a line per validation (always)."""

    def __init__(self, metric: str, console: Console | None = None) -> None:
        self._metric = metric
        self._console = console or Console(highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),  # so narrow that 80 columns hold the rest uncut
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
        )
        self._bar_task = self._bar.add_task("starting", total=None, numbers="")
        self._bar_epoch = -1
        self._loss: float | None = None
        self._tokens_per_s: float | None = None
        self._last_time: float | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    @property
    def tokens_per_s(self) -> float:
        """The speed that is shown."""
        return self._tokens_per_s or 0.0

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self._console.print(line, soft_wrap=True)

    def step(self, epoch: int, step: int, steps_per_epoch: int, loss: float, tokens: int, lr: float) -> None:
        """Shows one finished step (`epoch` from 0, `step` from 1)."""
        self._loss = _smooth(self._loss, loss)
        now = self._bar.get_time()
        if self._last_time is not None and now > self._last_time:
            self._tokens_per_s = _smooth(self._tokens_per_s, tokens / (now - self._last_time))
        self._last_time = now
        if epoch != self._bar_epoch:
            self._bar.reset(self._bar_task, total=steps_per_epoch, description=f"epoch {epoch + 1}", numbers="")
            self._bar_epoch = epoch
        self._bar.update(self._bar_task, completed=step, numbers=self._numbers(lr))

    def validation(self, log: Path, line: Mapping[str, Any]) -> None:
        """Prints a validation and appends it to the log file (JSON lines)."""
        self._last_time = None  # the time of validating is not a step's
        record = {**line, "tokens_per_s": round(self._tokens_per_s or 0.0)}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._console.print(
            f"epoch {line['epoch']:.2f}  step {line['step']}  {line['seconds']:.0f} s  lr {line['lr']:.2e}  "
            f"{record['tokens_per_s']} tokens/s  train loss {line['train_loss']:.4f}  "
            f"valid {self._metric} {line[f'valid_{self._metric}']:.4g}{'  best' if line['best'] else ''}",
            soft_wrap=True,
        )

    def _numbers(self, lr: float) -> str:
        loss = self._loss or 0.0
        shown = f"perplexity {math.exp(min(loss, 20.0)):.1f}" if self._metric == "perplexity" else f"loss {loss:.4f}"
        return f"{shown}  {self._tokens_per_s or 0:.0f} tokens/s  lr {lr:.1e}"


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else SMOOTHING * old + (1 - SMOOTHING) * new
