"""The folder of a training run.

config.toml   what the run is (see `run_config`)
best.pt       the weights with the best validation number (to export)
last.pt       the latest state, optimiser and random generators included (to resume)
log.jsonl     one line per validation
curves.png    the same as a picture, drawn when the run ends
tensorboard/  the same and more, while it goes on
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_exporter.training.task import Origin
from hiddenstate_exporter.training.whole_file import write_whole


class TrainingError(ValueError):
    """Training cannot start or go on; the message says what to change and what was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """What a run continues from."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    progress: Mapping[str, Any]
    rng: Tensor
    command: str  # the commands that make the run


@dataclass(frozen=True, slots=True)
class RunDir:
    """Where a run's files lie."""

    path: Path

    @property
    def best(self) -> Path:
        return self.path / "best.pt"

    @property
    def last(self) -> Path:
        return self.path / "last.pt"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def board(self) -> Path:
        return self.path / "tensorboard"

    def prepare(self, resume: bool) -> None:
        """Makes the folder for a new run, or checks that there is one to resume.

        Raises:
            TrainingError: the folder cannot be written, holds a run already, or has none to resume.
        """
        if resume and not self.last.exists():
            raise TrainingError(f"{self.last}: no such file; there is nothing to resume (leave --resume out to start)")
        if not resume and self.last.exists():
            raise TrainingError(f"{self.path}: holds a run already; continue it with --resume or name another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.log.open("a" if resume else "w").close()
        except OSError as error:
            raise TrainingError(f"{self.path}: cannot be used as run folder: {error.strerror}") from None

    def trim_log(self, step: int) -> None:
        """Takes validations out of the log that came after `step`: a run that was killed will repeat them."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        write_whole(self.log, "".join(f"{line}\n" for line in kept))

    def load_last(self, origin: Origin) -> Resumption:
        """Reads `last.pt`.

        Raises:
            TrainingError: it cannot be continued from, or is of another model than `origin` says.
            CheckpointError: it cannot be read.
        """
        last = load_checkpoint(self.last)
        if last.optimizer is None or last.schedule is None or last.progress is None or last.rng is None:
            raise TrainingError(f"{self.last}: has no optimiser state, so training cannot continue from it")
        if "name" not in last.optimizer:
            raise TrainingError(f"{self.last}: was written by an older release; start again in another folder")
        if last.kind != origin.kind:
            raise TrainingError(f"{self.last}: is a {last.kind}, not a {origin.kind}")
        for name in sorted({*last.config, *origin.config}):
            then, now = last.config.get(name, origin.config_defaults.get(name)), origin.config.get(name)
            if then != now:
                raise TrainingError(f"{self.last}: was trained with {name} {then}, not {now}; resume with the same")
        if last.tokenizer != origin.tokenizer:
            raise TrainingError(f"{self.last}: was trained with another vocabulary; resume with the same data")
        return Resumption(
            model=last.model,
            optimizer=last.optimizer,
            schedule=last.schedule,
            progress=last.progress,
            rng=last.rng,
            command=_commands(last.training, origin),
        )


def _commands(before: Mapping[str, Any], origin: Origin) -> str:
    """Returns what anyone would type to repeat a run: a resumption is part of it if it changed what the run is."""
    changed = before.get("config") != origin.run
    return f"{before['command']}\n{origin.command}" if changed else str(before["command"])


def _step_of(line: str) -> float:
    """Returns the step of a line of the log; infinity where it was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
