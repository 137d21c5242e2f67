"""The training loop, whatever is trained: steps, schedule, validation, early stopping, resuming."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch

from hiddenstate_exporter.training.checkpoint import Checkpoint, save_checkpoint
from hiddenstate_exporter.training.curves import draw_curves, read_log
from hiddenstate_exporter.training.descent import Descent, Step
from hiddenstate_exporter.training.interruption import Interruption
from hiddenstate_exporter.training.precision import choose_dtype
from hiddenstate_exporter.training.progress import Reporter
from hiddenstate_exporter.training.run_config import OptimizerConfig, ScheduleConfig, TrainingConfig, write_tables
from hiddenstate_exporter.training.run_dir import RunDir, TrainingError
from hiddenstate_exporter.training.schedule import Schedule
from hiddenstate_exporter.training.task import Origin, Task
from hiddenstate_exporter.training.tensorboard_log import TensorBoardLog

__all__ = ["Ending", "Origin", "Outcome", "Task", "TrainingError", "TrainingOptions", "train"]

Ending = Literal["max_epochs", "max_minutes", "max_tokens", "patience", "interrupted"]
_REASONS: Final[dict[Ending, str]] = {
    "max_epochs": "all epochs done",
    "max_minutes": "the time is up",
    "max_tokens": "all tokens done",
    "patience": "validation stopped improving",
    "interrupted": "interrupted (the same command with --resume continues)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How to train, and where. Time is counted over all resumptions of a run."""

    run_dir: Path
    resume: bool = False
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `best` is infinite if it ended before the first validation."""

    ending: Ending
    best: float
    best_path: Path
    epochs: float
    tokens: int
    seconds: float

    def describe(self, best: str) -> str:
        """Says how it ended and where the weights are; `best` says of the best ones how good they are."""
        kept = f"the best, {best}, are" if math.isfinite(self.best) else "the weights are"
        done = f"{self.epochs:.2f} epochs in {self.seconds:.0f} s"
        return f"{_REASONS[self.ending]} after {done}; {kept} kept in {self.best_path}"


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
    CPU, as long as the schedule does not depend on time), however the run was ended. To be called in the main thread:
    it handles signals.

    Raises:
        TrainingError: the run folder cannot be used, there is nothing to resume, or the loss became NaN.
        CheckpointError: a checkpoint cannot be read or written.
    """
    files = RunDir(options.run_dir)
    files.prepare(options.resume)
    run = _Run(task, origin, options, reporter or Reporter(task.metric), clock)
    if options.resume:
        run.restore()
    else:
        torch.manual_seed(options.training.seed)
    write_tables(files.config, origin.run)  # only now: a resumption that was refused leaves the run as it was
    run.board = TensorBoardLog(files.board, first_step=run.progress.total_steps)
    try:
        with run.reporter, Interruption() as interruption:
            return run.until_end(interruption)
    finally:
        run.board.close()
        draw_curves(read_log(files.log), task.metric, files.curves)


class _Run:
    """One training run: the only owner of the progress."""

    board: TensorBoardLog

    def __init__(
        self,
        task: Task[Any],
        origin: Origin,
        options: TrainingOptions,
        reporter: Reporter,
        clock: Callable[[], float],
    ) -> None:
        self.task, self.origin, self.reporter, self.clock = task, origin, reporter, clock
        self.optimizer, self.limits = options.optimizer, options.training
        self.files = RunDir(options.run_dir)
        self.device = next(task.model.parameters()).device
        self.descent = Descent(task.model, self.optimizer, choose_dtype(self.limits.precision, self.device))
        self.schedule = Schedule(
            options.schedule,
            lr=self.optimizer.lr,
            max_steps=self._max_steps(),
            max_seconds=self.limits.max_minutes * 60 if self.limits.max_minutes else None,
        )
        self.warmup_steps = options.schedule.warmup_steps
        self.progress = Progress()
        self._started = self._saved = clock()
        self._lr = self.optimizer.lr  # of the last step

    def restore(self) -> None:
        """Takes up `last.pt`: weights, optimiser, schedule, progress, random generators, what the task carries."""
        last = self.files.load_last(self.origin)
        self.origin = dataclasses.replace(self.origin, command=last.command)
        self.task.model.load_state_dict(dict(last.model))
        if self.limits.precision == "auto":  # not measured again: the same numbers
            self.descent.dtype = getattr(torch, last.progress["dtype"])
        try:
            self.descent.load_state_dict(last.optimizer)
        except ValueError as error:
            raise TrainingError(f"{self.files.last}: {error}") from None
        self.schedule.load_state_dict(last.schedule)
        self.progress = Progress(**last.progress["run"])
        self.task.load_state_dict(last.progress["task"])
        torch.set_rng_state(last.rng)
        if last.progress["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(last.progress["cuda_rng"])
        self.files.trim_log(self.progress.total_steps)

    def until_end(self, interruption: Interruption) -> Outcome:
        self._started = self.clock() - self.progress.seconds
        self._check_warmup()
        ending = self._limit_reached()
        while ending is None:
            ending = self._epoch(interruption)
        self._keep_something()
        return Outcome(
            ending=ending,
            best=self.progress.best,
            best_path=self.files.best,
            epochs=self._epochs(),
            tokens=self.progress.total_tokens,
            seconds=self.progress.seconds,
        )

    def _max_steps(self) -> int:
        steps = self.limits.max_epochs * self.task.steps_per_epoch
        if self.limits.max_tokens is None:
            return steps
        return min(steps, math.ceil(self.limits.max_tokens / self.task.tokens_per_step))

    def _check_warmup(self) -> None:
        """Says so where the run ends before the learning rate has risen: it hardly learns then."""
        warmup, steps = self.warmup_steps, self._max_steps()
        if warmup > steps:
            self.reporter.say(
                f"warning: the learning rate rises over {warmup} steps (schedule.warmup_steps), and the run has "
                f"{steps}: it will hardly learn; make the rise shorter or the run longer"
            )

    def _limit_reached(self) -> Ending | None:
        progress, limits = self.progress, self.limits
        if progress.epoch >= limits.max_epochs:
            return "max_epochs"
        if progress.bad_validations >= limits.patience:
            return "patience"
        if limits.max_tokens is not None and progress.total_tokens >= limits.max_tokens:
            return "max_tokens"
        out_of_time = limits.max_minutes is not None and progress.seconds >= limits.max_minutes * 60
        return "max_minutes" if out_of_time else None

    def _epoch(self, interruption: Interruption) -> Ending | None:
        """Runs the rest of the current epoch; returns why the run ends here, or None."""
        every = math.ceil(self.task.steps_per_epoch / self.limits.validations_per_epoch)
        for batch in itertools.islice(self.task.batches(self.progress.epoch), self.progress.step, None):
            self._step(batch)
            ending = self._limit_reached()
            if ending or self.progress.step == self.task.steps_per_epoch or self.progress.step % every == 0:
                self._validate()
                ending = self._limit_reached()
            elif self.clock() - self._saved >= self.limits.save_minutes * 60:
                self._save_last()
            if ending is None and interruption.requested:
                ending = "interrupted"
            if ending is not None:
                self._save_last()
                return ending
        self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
        self._save_last()
        return self._limit_reached()

    def _step(self, batch: Any) -> None:
        progress = self.progress
        self._lr = self.schedule.at(progress.total_steps, self.clock() - self._started)
        lr = self._lr * self.task.lr_scale(batch)
        step = self.descent.step(lambda: self.task.loss(batch), lr)
        if not step.finite:
            raise TrainingError(self._not_finite(step))
        progress.step += 1
        progress.total_steps += 1
        progress.total_tokens += step.tokens
        progress.seconds = self.clock() - self._started
        progress.loss_sum += step.loss * step.tokens
        progress.loss_tokens += step.tokens
        self.reporter.step(progress.epoch, progress.step, self.task.steps_per_epoch, step.loss, step.tokens, lr)
        self.board.step(progress.total_steps, step, lr, self.reporter.tokens_per_s)

    def _not_finite(self, step: Step) -> str:
        at = f"step {self.progress.step + 1} of epoch {self.progress.epoch + 1}"
        return (
            f"loss {step.loss} or its gradient is not finite at {at}; {self._kept()}; "
            "try a lower optimizer.lr or optimizer.clip"
        )

    def _kept(self) -> str:
        return f"{self.files.best} keeps the best weights" if self.files.best.exists() else "no weights were kept yet"

    def _validate(self) -> None:
        progress, average = self.progress, self.descent.average
        self.task.model.eval()
        with average.in_place() if average is not None else contextlib.nullcontext():
            with torch.no_grad():
                number = self.task.validate()
            if not math.isfinite(number):
                raise TrainingError(
                    f"validation {self.task.metric} is {number} after step {progress.total_steps}; {self._kept()}; "
                    "try a lower optimizer.lr"
                )
            progress.seconds = self.clock() - self._started
            better = number < progress.best
            progress.bad_validations = 0 if better else progress.bad_validations + 1
            if better:
                progress.best = number
                save_checkpoint(self.files.best, self._checkpoint({self.task.metric: number}))
            else:
                self.schedule.on_no_improvement()
        if average is not None and average.on_validation(number):
            progress.bad_validations = 0  # averaging begins: that is a new chance
            self.reporter.say(f"averaging of weights begins after step {progress.total_steps}")
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
                "lr": self._lr,
                "train_loss": progress.loss_sum / max(progress.loss_tokens, 1),
                f"valid_{self.task.metric}": number,
                "best": better,
            },
        )
        self.board.validation(progress.total_steps, self.task.metric, number)

    def _keep_something(self) -> None:
        """Leaves a best.pt even if the run ends before its first validation."""
        if math.isinf(self.progress.best):
            save_checkpoint(self.files.best, self._checkpoint({}))

    def _save_last(self) -> None:
        cuda = self.device.type == "cuda"
        last = dataclasses.replace(
            self._checkpoint({}),
            optimizer=self.descent.state_dict(),
            schedule=self.schedule.state_dict(),
            progress={
                "run": dataclasses.asdict(self.progress),
                "task": self.task.state_dict(),
                "dtype": str(self.descent.dtype).removeprefix("torch."),
                "cuda_rng": torch.cuda.get_rng_state() if cuda else None,
            },
            rng=torch.get_rng_state(),
        )
        save_checkpoint(self.files.last, last)
        self._saved = self.clock()

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
                "config": self.origin.run,
            },
            metrics=metrics,
        )

    def _epochs(self) -> float:
        return self.progress.epoch + self.progress.step / self.task.steps_per_epoch
