"""The training loop, on a task small enough to follow."""

import dataclasses
import io
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_exporter.training.loop import Origin, Outcome, TrainingError, TrainingOptions, train
from hiddenstate_exporter.training.progress import Reporter
from hiddenstate_exporter.training.run_config import OptimizerConfig, ScheduleConfig, TrainingConfig

ORIGIN = Origin(kind="language_model", config={"size": 2}, tokenizer="{}", data="numbers", command="hiddenstate train")
STEPS = 4


class LineTask:
    """Fits a line to noisy points, with dropout so that the global random generator matters."""

    metric = "error"
    steps_per_epoch = STEPS
    tokens_per_step = 16.0

    def __init__(
        self, validations: list[float] | None = None, before_step: Callable[[int], None] | None = None
    ) -> None:
        torch.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.losses: list[float] = []
        self._validations = iter(validations) if validations is not None else None
        self._before_step = before_step
        self._carried = torch.zeros(1)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(STEPS):
            yield torch.randn(16, 2, generator=generator)

    def loss(self, batch: Tensor) -> tuple[Tensor, int]:
        if self._before_step is not None:
            self._before_step(len(self.losses))
        wanted = batch.sum(1, keepdim=True) + self._carried
        loss = (self.model(batch) - wanted).square().mean()
        self._carried = self._carried * 0.5 + batch.mean()
        self.losses.append(loss.item())
        return loss, len(batch)

    def lr_scale(self, batch: Tensor) -> float:
        return 1.0

    def validate(self) -> float:
        if self._validations is not None:
            return next(self._validations)
        points = torch.randn(64, 2, generator=torch.Generator().manual_seed(99))
        return float((self.model(points) - points.sum(1, keepdim=True)).square().mean())

    def state_dict(self) -> dict[str, Any]:
        return {"carried": self._carried}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._carried = state["carried"]


def run(task: LineTask, run_dir: Path, **changes: Any) -> Outcome:
    clock = changes.pop("clock", itertools.count().__next__)
    reporter = Reporter(task.metric, Console(file=io.StringIO()))
    return train(task, ORIGIN, make_options(run_dir, **changes), reporter, clock)


def make_options(run_dir: Path, *, resume: bool = False, **changes: Any) -> TrainingOptions:
    """Puts each setting into the table that has it."""
    settings: dict[str, Any] = {"max_epochs": 3, "lr": 0.05, "warmup_steps": 0} | changes
    tables = [OptimizerConfig, ScheduleConfig, TrainingConfig]
    optimizer, schedule, training = (
        table(**{name: settings.pop(name) for name in table.__struct_fields__ if name in settings}) for table in tables
    )
    assert not settings
    return TrainingOptions(run_dir=run_dir, resume=resume, optimizer=optimizer, schedule=schedule, training=training)


def log_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def interrupt_at(step: int) -> Callable[[int], None]:
    return lambda now: os.kill(os.getpid(), signal.SIGINT) if now == step else None


def test_training_lowers_the_loss_and_keeps_the_best_weights(tmp_path: Path) -> None:
    task = LineTask()
    outcome = run(task, tmp_path, max_epochs=12, patience=12)
    assert outcome.ending == "max_epochs"
    assert outcome.epochs == 12
    assert sum(task.losses[-4:]) < 0.5 * sum(task.losses[:4])
    best = load_checkpoint(outcome.best_path)
    assert best.metrics == {"error": min(line["valid_error"] for line in log_of(tmp_path))}
    assert best.training["data"] == "numbers"
    assert best.config == {"size": 2}
    assert best.optimizer is None


def test_best_holds_the_weights_of_the_best_validation_and_not_the_last(tmp_path: Path) -> None:
    outcome = run(LineTask(validations=[3.0, 1.0, 2.0]), tmp_path)
    assert outcome.best == 1.0
    assert load_checkpoint(tmp_path / "best.pt").training["epochs"] == 2.0
    last = load_checkpoint(tmp_path / "last.pt")
    best = load_checkpoint(tmp_path / "best.pt")
    assert last.training["epochs"] == 3.0
    assert not torch.equal(last.model["0.weight"], best.model["0.weight"])


@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, 2 * STEPS + 2])
def test_an_interrupted_and_resumed_run_computes_the_same_numbers_as_an_unbroken_one(tmp_path: Path, step: int) -> None:
    unbroken = LineTask()
    run(unbroken, tmp_path / "unbroken")
    first = LineTask(before_step=interrupt_at(step))
    assert run(first, tmp_path / "broken").ending == "interrupted"
    second = LineTask()
    assert run(second, tmp_path / "broken", resume=True).ending == "max_epochs"
    assert len(first.losses) == step + 1
    assert first.losses + second.losses == unbroken.losses
    for name in ("best.pt", "last.pt"):
        one, other = (load_checkpoint(tmp_path / kind / name) for kind in ("unbroken", "broken"))
        assert all(torch.equal(one.model[key], other.model[key]) for key in one.model)
        assert one.metrics == other.metrics
    numbers = [
        [(e["step"], e["train_loss"], e["valid_error"]) for e in log_of(tmp_path / k)] for k in ("unbroken", "broken")
    ]
    assert numbers[0] == numbers[1]


def test_an_interrupt_before_the_first_validation_still_leaves_weights(tmp_path: Path) -> None:
    outcome = run(LineTask(before_step=interrupt_at(0)), tmp_path)
    assert outcome.ending == "interrupted"
    assert outcome.best == float("inf")
    assert load_checkpoint(outcome.best_path).metrics == {}


def test_training_stops_when_validation_no_longer_improves_and_stays_stopped(tmp_path: Path) -> None:
    outcome = run(LineTask(validations=[2.0, 1.0, 1.0, 1.5]), tmp_path, max_epochs=9, patience=2)
    assert (outcome.ending, outcome.epochs, outcome.best) == ("patience", 4.0, 1.0)
    task = LineTask(validations=[])
    assert run(task, tmp_path, max_epochs=9, patience=2, resume=True).ending == "patience"
    assert task.losses == []


def test_plateau_lowers_the_rate_after_a_validation_without_progress(tmp_path: Path) -> None:
    run(LineTask(validations=[1.0, 1.0, 0.5]), tmp_path, kind="plateau")
    assert [line["lr"] for line in log_of(tmp_path)] == [0.05, 0.05, 0.025]


def test_the_time_limit_validates_and_ends_within_an_epoch(tmp_path: Path) -> None:
    seconds = itertools.count(step=10.0)
    outcome = run(LineTask(validations=[1.0]), tmp_path, max_minutes=1, clock=lambda: next(seconds))
    assert outcome.ending == "max_minutes"
    assert outcome.epochs < 1
    assert outcome.seconds >= 60
    assert load_checkpoint(outcome.best_path).metrics == {"error": 1.0}


def test_the_time_limit_counts_what_was_used_before_a_resumption(tmp_path: Path) -> None:
    seconds = itertools.count(step=10.0)
    run(LineTask(validations=[1.0]), tmp_path, max_minutes=1, clock=lambda: next(seconds))
    task = LineTask()
    assert run(task, tmp_path, max_minutes=1, resume=True).ending == "max_minutes"
    assert task.losses == []


def test_validation_can_come_several_times_an_epoch(tmp_path: Path) -> None:
    run(LineTask(), tmp_path, max_epochs=1, validations_per_epoch=2)
    assert [line["step"] for line in log_of(tmp_path)] == [2, 4]


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path: Path) -> None:
    task = LineTask()
    norms: list[float] = []

    def spy(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        gradients = [p.grad.flatten() for p in task.model.parameters() if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())

    handle = register_optimizer_step_pre_hook(spy)
    try:
        run(task, tmp_path, clip=0.01)
    finally:
        handle.remove()
    assert len(norms) == 3 * STEPS
    assert max(norms) <= 0.01 + 1e-6


def test_a_loss_that_is_not_a_number_names_the_step_and_keeps_the_last_good_weights(tmp_path: Path) -> None:
    task = LineTask()

    def poison(step: int) -> None:
        if step == STEPS + 1:
            with torch.no_grad():
                next(task.model.parameters()).fill_(float("nan"))

    task._before_step = poison
    with pytest.raises(TrainingError, match=r"loss nan .* not finite at step 2 of epoch 2; .*best\.pt keeps the best"):
        run(task, tmp_path)
    assert all(torch.isfinite(value).all() for value in load_checkpoint(tmp_path / "best.pt").model.values())
    assert all(torch.isfinite(value).all() for value in load_checkpoint(tmp_path / "last.pt").model.values())


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run(LineTask(), tmp_path, max_epochs=1)
    with pytest.raises(TrainingError, match="holds a run already; continue it with --resume or name another folder"):
        run(LineTask(), tmp_path)


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"last\.pt: no such file; there is nothing to resume"):
        run(LineTask(), tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"file/run: cannot be used as run folder: Not a directory"):
        run(LineTask(), tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        ({"config": {"size": 3}}, "was trained with size 2, not 3"),
        ({"tokenizer": "[]"}, "was trained with another vocabulary"),
        ({"kind": "sentence_encoder"}, "is a language_model, not a sentence_encoder"),
    ],
)
def test_a_run_is_not_resumed_as_another_model(tmp_path: Path, origin: dict[str, Any], reason: str) -> None:
    run(LineTask(), tmp_path, max_epochs=1)
    options = make_options(tmp_path, resume=True)
    with pytest.raises(TrainingError, match=reason):
        train(LineTask(), dataclasses.replace(ORIGIN, **origin), options)


def test_a_run_of_an_older_release_is_resumed_though_it_lacks_new_fields(tmp_path: Path) -> None:
    run(LineTask(), tmp_path, max_epochs=1)
    options = make_options(tmp_path, resume=True, max_epochs=2)
    newer = dataclasses.replace(ORIGIN, config={"size": 2, "form": "round"}, config_defaults={"form": "round"})
    with pytest.raises(TrainingError, match="was trained with form round, not square"):
        train(LineTask(), dataclasses.replace(newer, config={"size": 2, "form": "square"}), options)
    assert train(LineTask(), newer, options).ending == "max_epochs"


def test_best_cannot_be_resumed_in_place_of_last(tmp_path: Path) -> None:
    run(LineTask(), tmp_path, max_epochs=1)
    (tmp_path / "best.pt").replace(tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="has no optimiser state"):
        run(LineTask(), tmp_path, resume=True)


def test_each_validation_is_printed_and_logged(tmp_path: Path) -> None:
    shown = io.StringIO()
    train(
        LineTask(validations=[2.0, 3.0]),
        ORIGIN,
        make_options(tmp_path, max_epochs=2),
        Reporter("error", Console(file=shown, width=200)),
    )
    lines = [line for line in shown.getvalue().splitlines() if "valid error" in line]
    assert len(lines) == 2
    assert "epoch 1.00" in lines[0]
    assert "tokens/s" in lines[0]
    assert lines[0].endswith("valid error 2  best")
    assert lines[1].endswith("valid error 3")
    assert [line["best"] for line in log_of(tmp_path)] == [True, False]
    assert [line["tokens"] for line in log_of(tmp_path)] == [STEPS * 16, 2 * STEPS * 16]


@pytest.mark.parametrize(("warmup_steps", "warned"), [(2 * STEPS + 1, True), (2 * STEPS, False)])
def test_a_run_shorter_than_its_warm_up_is_warned_of(tmp_path: Path, warmup_steps: int, warned: bool) -> None:
    shown = io.StringIO()
    options = make_options(tmp_path, max_epochs=2, warmup_steps=warmup_steps)
    train(LineTask(), ORIGIN, options, Reporter("error", Console(file=shown, width=200)))
    assert ("schedule.warmup_steps" in shown.getvalue()) is warned
