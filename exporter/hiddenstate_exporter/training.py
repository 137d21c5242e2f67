"""The training loop, whatever is trained: steps, clipping, schedule, validation, early stopping, resuming.

A run folder holds
    best.pt     the weights with the best validation number (to export)
    last.pt     the latest state, optimiser and random generator included (to resume)
    log.jsonl   one line per validation
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hiddenstate_exporter.checkpoint import Checkpoint, Kind, load_checkpoint, save_checkpoint
from hiddenstate_exporter.interruption import Interruption
from hiddenstate_exporter.progress import Reporter
from hiddenstate_exporter.schedule import Schedule

Batch = TypeVar("Batch")
Ending = Literal["max_epochs", "max_minutes", "patience", "interrupted"]


class TrainingError(Exception):
    """Training cannot start or go on; the message says what to change and what was kept."""


class Task(Protocol[Batch]):
    """What is trained. All randomness outside `batches` comes from torch's global generator."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def metric(self) -> str:
        """The name of what `validate` returns, such as "perplexity"."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yields `steps_per_epoch` batches; the same ones each time it is called with the same epoch."""

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Returns the mean loss (a scalar with a gradient) and how many tokens it covers."""

    def validate(self) -> float:
        """Returns the validation number: lower is better. Called in eval mode without gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what the task carries from one batch to the next (empty if nothing)."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is written into every checkpoint beside the weights."""

    kind: Kind
    config: Mapping[str, Any]
    tokenizer: str
    data: str
    command: str


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
    """How a run ended."""

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
    CPU, as long as the schedule does not depend on time).

    Raises:
        TrainingError: the run folder cannot be used, there is nothing to resume, or the loss became NaN.
        CheckpointError: a checkpoint cannot be read or written.
    """
    _prepare_run_dir(options)
    run = _Run(task, origin, options, reporter or Reporter(task.metric), clock)
    if options.resume:
        run.restore()
    else:
        torch.manual_seed(options.seed)
    with run.reporter, Interruption() as interruption:
        return run.until_end(interruption)


def _prepare_run_dir(options: TrainingOptions) -> None:
    last = options.run_dir / "last.pt"
    try:
        options.run_dir.mkdir(parents=True, exist_ok=True)
        (options.run_dir / "log.jsonl").open("a").close()
    except OSError as error:
        raise TrainingError(f"{options.run_dir}: cannot be used as run folder: {error.strerror}") from None
    if options.resume and not last.exists():
        raise TrainingError(f"{last}: no such file; there is nothing to resume (leave --resume out to start)")
    if not options.resume and last.exists():
        raise TrainingError(f"{options.run_dir}: holds a run already; continue it with --resume or name another folder")


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

    @property
    def best_path(self) -> Path:
        return self.options.run_dir / "best.pt"

    @property
    def last_path(self) -> Path:
        return self.options.run_dir / "last.pt"

    def until_end(self, interruption: Interruption) -> Outcome:
        before = self.progress.seconds
        self._started = self.clock() - before
        while self.progress.epoch < self.options.max_epochs:
            ending = self._epoch(interruption)
            if ending is not None:
                return self._outcome(ending)
        return self._outcome("max_epochs")

    def restore(self) -> None:
        """Takes up `last.pt`: weights, optimiser, schedule, progress, random generator, what the task carries."""
        last = load_checkpoint(self.last_path)
        if last.optimizer is None or last.schedule is None or last.progress is None or last.rng is None:
            raise TrainingError(f"{self.last_path}: has no optimiser state, so training cannot continue from it")
        self._check_same_model(last)
        self.task.model.load_state_dict(dict(last.model))
        self.optimizer.load_state_dict(dict(last.optimizer))
        self.schedule.load_state_dict(last.schedule)
        self.progress = Progress(**last.progress["run"])
        self.task.load_state_dict(last.progress["task"])
        torch.set_rng_state(last.rng)

    def _check_same_model(self, last: Checkpoint) -> None:
        for name in sorted({*last.config, *self.origin.config}):
            then, now = last.config.get(name), self.origin.config.get(name)
            if then != now:
                raise TrainingError(
                    f"{self.last_path}: was trained with {name} {then}, not {now}; resume with the same"
                )
        if last.tokenizer != self.origin.tokenizer:
            raise TrainingError(f"{self.last_path}: was trained with another vocabulary; resume with the same data")

    def _epoch(self, interruption: Interruption) -> Ending | None:
        """Runs the rest of the current epoch; returns why the run ends here, or None."""
        every = math.ceil(self.task.steps_per_epoch / self.options.validations_per_epoch)
        for batch in itertools.islice(self.task.batches(self.progress.epoch), self.progress.step, None):
            self._step(batch)
            last_step = self.progress.step >= self.task.steps_per_epoch
            out_of_time = self._out_of_time()
            if last_step or out_of_time or self.progress.step % every == 0:
                self._validate()
                if self.progress.bad_validations >= self.options.patience:
                    return self._ended("patience")
            if out_of_time:
                return self._ended("max_minutes")
            if interruption.requested:
                return self._ended("interrupted")
        self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
        self._save_last()
        return None

    def _step(self, batch: Any) -> None:
        progress = self.progress
        lr = self.schedule.at(progress.total_steps, self.clock() - self._started)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
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
        progress.step += 1
        progress.total_steps += 1
        progress.total_tokens += tokens
        progress.seconds = self.clock() - self._started
        progress.loss_sum += value * tokens
        progress.loss_tokens += tokens
        self.reporter.step(progress.epoch, progress.step, self.task.steps_per_epoch, value, tokens, lr)

    def _not_finite(self, loss: float) -> str:
        kept = f"{self.best_path} keeps the best weights" if self.best_path.exists() else "no weights were kept yet"
        at = f"step {self.progress.step + 1} of epoch {self.progress.epoch + 1}"
        return f"loss {loss} or its gradient is not finite at {at}; {kept}; try a lower --lr or --clip"

    def _out_of_time(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and self.progress.seconds >= limit * 60

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
            save_checkpoint(self.best_path, self._checkpoint({self.task.metric: number}))
        else:
            self.schedule.on_no_improvement()
        self._log(number, better)
        progress.loss_sum, progress.loss_tokens = 0.0, 0
        self._save_last()

    def _log(self, number: float, better: bool) -> None:
        progress = self.progress
        self.reporter.validation(
            self.options.run_dir / "log.jsonl",
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

    def _ended(self, ending: Ending) -> Ending:
        self._save_last()
        return ending

    def _save_last(self) -> None:
        last = dataclasses.replace(
            self._checkpoint({}),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            progress={"run": dataclasses.asdict(self.progress), "task": self.task.state_dict()},
            rng=torch.get_rng_state(),
        )
        save_checkpoint(self.last_path, last)

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

    def _outcome(self, ending: Ending) -> Outcome:
        return Outcome(
            ending=ending,
            best=self.progress.best,
            best_path=self.best_path,
            epochs=self._epochs(),
            seconds=self.progress.seconds,
        )
