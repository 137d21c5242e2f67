"""Whether what a comparison's folder holds was made by the comparison that is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_exporter.training.run_config import LanguageModelRun, make_run, to_tables
from hiddenstate_exporter.training.run_dir import RunDir, TrainingError
from hiddenstate_server.bundle import load_bundle

OF_THE_MACHINE: Final = frozenset({"training.threads", "training.device", "training.save_minutes"})


def check_run(path: Path, run: LanguageModelRun) -> None:
    """Checks that the training in the folder `path`, if there is one, is that of `run`.

    Raises:
        TrainingError: it had other settings; the message names the first.
    """
    files = RunDir(path)
    for checkpoint in (files.best, files.last):
        if checkpoint.exists():
            _check(path, load_checkpoint(checkpoint).training.get("config", {}), run)


def check_bundle(path: Path, run: LanguageModelRun) -> None:
    """Checks that the bundle in the folder `path`, if there is one, was trained as `run` says.

    Raises:
        TrainingError: it had other settings; the message names the first.
    """
    if path.exists():
        _check(path, load_bundle(path).training.config or {}, run)


def _check(path: Path, before: Mapping[str, Any], run: LanguageModelRun) -> None:
    then, now = _settings(make_run(LanguageModelRun, before, str(path))), _settings(run)
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            raise TrainingError(
                f"{path}: was trained with {key} {_shown(then.get(key))}, not {_shown(now.get(key))}; "
                "continue with the same settings, or name another folder with --out"
            )


def _settings(run: LanguageModelRun) -> dict[str, Any]:
    """Returns the values by TABLE.KEY, without those that may differ from machine to machine."""
    settings = {f"{name}.{key}": value for name, table in to_tables(run).items() for key, value in table.items()}
    return {key: value for key, value in settings.items() if key not in OF_THE_MACHINE}


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
