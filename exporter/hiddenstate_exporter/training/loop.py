"""The training loop, whatever is trained: steps, clipping, schedule, validation, early stopping, resuming."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from hiddenstate_exporter.training.checkpoint import Checkpoint, save_checkpoint
from hiddenstate_exporter.training.interruption import Interruption
from hiddenstate_exporter.training.progress import Reporter
from hiddenstate_exporter.training.run_dir import RunDir, TrainingError
from hiddenstate_exporter.training.schedule import Schedule
from hiddenstate_exporter.training.task import Origin, Task

__all__ = ["REASONS", "Ending", "Origin", "Outcome", "Task", "TrainingError", "TrainingOptions", "train"]

Ending = Literal["max_epochs", "max_minutes", "patience", "interrupted"]
REASONS: Final[dict[Ending, str]] = {
    "max_epochs": "all epochs done",
    "max_minutes": "the time is up",
    "patience": "validation stopped improving",
    "interrupted": "interrupted (the same command with --resume continues)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How to train. `max_minutes` counts time of this run over all its resumptions."""

    run_dir: Path
    lr: float = 1e-3
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of all gradients together
    max_epochs: int = 40
    max_minutes: float | None = None
    patience: int = 5  # validations in a row without a better number, then stop
    warmup_steps: int = 100
    schedule: Literal["cosine", "plateau"] = "cosine"
    validations_per_epoch: int = 1
    seed: int = 0
    bf16: bool = False
    resume: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `best` is infinite if it ended before the first validation."""

    ending: Ending
    best: float
    best_path: Path
    epochs: float
    seconds: float


@dataclass(slots=True)
class Progress:
    """Where a run stands; saved in `last.pt`."""

    epoch: int = 0
    step: int = 0  # finished steps of this epoch
    total_steps: int = 0
    total_tokens: int = 0
    seconds: float = 0.0
    best: float = math.inf
    bad_validations: int = 0
    loss_sum: float = 0.0  # since the last validation, weighted by tokens
    loss_tokens: int = 0


def train(
    task: Task[Any],
    origin: Origin,
    options: TrainingOptions,
    reporter: Reporter | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Trains until a limit of `options` or Ctrl-C, and leaves the best weights in `run_dir/best.pt`.

    With `options.resume` it continues from `run_dir/last.pt` and computes the same numbers as an unbroken run (on the
    CPU, as long as the schedule does not depend on time). To be called in the main thread: it handles signals.

    Raises:
        TrainingError: the run folder cannot be used, there is nothing to resume, or the loss became NaN.
        CheckpointError: a checkpoint cannot be read or written.
    """
    run = _Run(task, origin, options, reporter or Reporter(task.metric), clock)
    run.files.prepare(options.resume)
    if options.resume:
        run.restore()
    else:
        torch.manual_seed(options.seed)
    with run.reporter, Interruption() as interruption:
        return run.until_end(interruption)


class _Run:
    """One training run: the only owner of the optimiser and of the progress."""

    def __init__(
        self,
        task: Task[Any],
        origin: Origin,
        options: TrainingOptions,
        reporter: Reporter,
        clock: Callable[[], float],
    ) -> None:
        self.task, self.origin, self.options, self.reporter, self.clock = task, origin, options, reporter, clock
        self.files = RunDir(options.run_dir)
        self.optimizer = torch.optim.AdamW(
            task.model.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True
        )
        self.schedule = Schedule(
            kind=options.schedule,
            lr=options.lr,
            warmup_steps=options.warmup_steps,
            max_steps=options.max_epochs * task.steps_per_epoch,
            max_seconds=options.max_minutes * 60 if options.max_minutes else None,
        )
        self.progress = Progress()
        self.device_type = next(task.model.parameters()).device.type
        self._started = clock()

    def restore(self) -> None:
        """Takes up `last.pt`: weights, optimiser, schedule, progress, random generator, what the task carries."""
        last = self.files.load_last(self.origin)
        self.task.model.load_state_dict(dict(last.model))
        self.optimizer.load_state_dict(dict(last.optimizer))
        self.schedule.load_state_dict(last.schedule)
        self.progress = Progress(**last.progress["run"])
        self.task.load_state_dict(last.progress["task"])
        torch.set_rng_state(last.rng)

    def until_end(self, interruption: Interruption) -> Outcome:
        self._started = self.clock() - self.progress.seconds
        ending = self._limit_reached()
        while ending is None:
            ending = self._epoch(interruption)
        return Outcome(
            ending=ending,
            best=self.progress.best,
            best_path=self.files.best,
            epochs=self._epochs(),
            seconds=self.progress.seconds,
        )

    def _limit_reached(self) -> Ending | None:
        if self.progress.epoch >= self.options.max_epochs:
            return "max_epochs"
        if self.progress.bad_validations >= self.options.patience:
            return "patience"
        return "max_minutes" if self._out_of_time() else None

    def _out_of_time(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and self.progress.seconds >= limit * 60

    def _epoch(self, interruption: Interruption) -> Ending | None:
        """Runs the rest of the current epoch; returns why the run ends here, or None."""
        every = math.ceil(self.task.steps_per_epoch / self.options.validations_per_epoch)
        for batch in itertools.islice(self.task.batches(self.progress.epoch), self.progress.step, None):
            self._step(batch)
            ending = self._limit_reached()
            if ending or self.progress.step == self.task.steps_per_epoch or self.progress.step % every == 0:
                self._validate()
                ending = self._limit_reached()
            if ending is None and interruption.requested:
                ending = "interrupted"
            if ending is not None:
                self._keep_something()
                self._save_last()
                return ending
        self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
        self._save_last()
        return self._limit_reached()

    def _step(self, batch: Any) -> None:
        progress = self.progress
        lr = self.schedule.at(progress.total_steps, self.clock() - self._started)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss, tokens = self._update(batch)
        progress.step += 1
        progress.total_steps += 1
        progress.total_tokens += tokens
        progress.seconds = self.clock() - self._started
        progress.loss_sum += loss * tokens
        progress.loss_tokens += tokens
        self.reporter.step(progress.epoch, progress.step, self.task.steps_per_epoch, loss, tokens, lr)

    def _update(self, batch: Any) -> tuple[float, int]:
        """Does one step of gradient descent; returns the loss before it and the number of tokens."""
        self.task.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.options.bf16):
            loss, tokens = self.task.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), self.options.clip)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise TrainingError(self._not_finite(value))
        self.optimizer.step()
        return value, tokens

    def _not_finite(self, loss: float) -> str:
        kept = f"{self.files.best} keeps the best weights" if self.files.best.exists() else "no weights were kept yet"
        at = f"step {self.progress.step + 1} of epoch {self.progress.epoch + 1}"
        return f"loss {loss} or its gradient is not finite at {at}; {kept}; try a lower --lr or --clip"

    def _validate(self) -> None:
        progress = self.progress
        self.task.model.eval()
        with torch.no_grad():
            number = self.task.validate()
        progress.seconds = self.clock() - self._started
        better = number < progress.best
        progress.bad_validations = 0 if better else progress.bad_validations + 1
        if better:
            progress.best = number
            save_checkpoint(self.files.best, self._checkpoint({self.task.metric: number}))
        else:
            self.schedule.on_no_improvement()
        self._log(number, better)
        progress.loss_sum, progress.loss_tokens = 0.0, 0
        self._save_last()

    def _log(self, number: float, better: bool) -> None:
        progress = self.progress
        self.reporter.validation(
            self.files.log,
            {
                "epoch": round(self._epochs(), 3),
                "step": progress.total_steps,
                "tokens": progress.total_tokens,
                "seconds": round(progress.seconds, 1),
                "lr": self.optimizer.param_groups[0]["lr"],
                "train_loss": progress.loss_sum / max(progress.loss_tokens, 1),
                f"valid_{self.task.metric}": number,
                "best": better,
            },
        )

    def _keep_something(self) -> None:
        """Leaves a best.pt even if the run ends before its first validation."""
        if math.isinf(self.progress.best):
            save_checkpoint(self.files.best, self._checkpoint({}))

    def _save_last(self) -> None:
        last = dataclasses.replace(
            self._checkpoint({}),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            progress={"run": dataclasses.asdict(self.progress), "task": self.task.state_dict()},
            rng=torch.get_rng_state(),
        )
        save_checkpoint(self.files.last, last)

    def _checkpoint(self, metrics: Mapping[str, float]) -> Checkpoint:
        return Checkpoint(
            kind=self.origin.kind,
            config=self.origin.config,
            model=self.task.model.state_dict(),
            tokenizer=self.origin.tokenizer,
            training={
                "data": self.origin.data,
                "command": self.origin.command,
                "seconds": round(self.progress.seconds, 1),
                "epochs": round(self._epochs(), 2),
            },
            metrics=metrics,
        )

    def _epochs(self) -> float:
        return self.progress.epoch + self.progress.step / self.task.steps_per_epoch
