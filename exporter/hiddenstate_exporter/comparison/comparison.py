"""Trains the contenders one after another, publishes each, and sets their numbers side by side."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import msgspec

from hiddenstate_exporter.comparison.contender import Contender
from hiddenstate_exporter.comparison.recommendation import Recommendation
from hiddenstate_exporter.comparison.result import Result
from hiddenstate_exporter.comparison.resumption import check_bundle, check_run
from hiddenstate_exporter.comparison.serving_time import serving_times
from hiddenstate_exporter.publishing.export import ExportOptions, export
from hiddenstate_exporter.training import language_model_run
from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_exporter.training.curves import read_log
from hiddenstate_exporter.training.run_config import LanguageModelRun
from hiddenstate_exporter.training.run_dir import RunDir, TrainingError
from hiddenstate_exporter.training.texts import Texts
from hiddenstate_server.bundle import VariantName

Echo = Callable[[str], None]

FP32: tuple[VariantName, ...] = ("fp32",)


class Interrupted(Exception):  # noqa: N818  # no error
    """Ctrl-C ended a training; what was done is kept."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a comparison lies: `runs/NAME-INDEX` for each seed, `models/NAME/1`, results.json, comparison.png."""

    path: Path

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def picture(self) -> Path:
        return self.path / "comparison.png"

    def prepare(self, resume: bool) -> None:
        """Makes the folder, and checks that it can be written and holds nothing unless `resume`.

        Raises:
            TrainingError: it cannot be written, or holds something and `resume` is off.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.path).close()
            used = any(self.path.iterdir())
        except OSError as error:
            raise TrainingError(f"{self.path}: cannot be written: {error.strerror}; give another --out") from None
        if used and not resume:
            raise TrainingError(f"{self.path}: is not empty; continue with --resume or name another folder")

    def run(self, contender: Contender, index: int) -> Path:
        return self.path / "runs" / f"{contender.name}-{index}"

    def bundle(self, contender: Contender) -> Path:
        return self.path / "models" / contender.name / "1"


def compare(
    contenders: Sequence[Contender], texts: Texts, folder: Folder, *, seeds: int, command: str, echo: Echo
) -> list[Result]:
    """Trains, publishes and measures the contenders, each `seeds` times, with seeds from that of its run on.

    What a comparison in the same folder has done already is taken over, and a training that was broken off goes on.

    Raises:
        TrainingError: the folder holds a comparison of other settings, or a training could not go on.
        Interrupted: Ctrl-C.
    """
    for contender in contenders:
        for index in range(seeds):
            check_run(folder.run(contender, index), _run(contender, index))
        check_bundle(folder.bundle(contender), _run(contender, 0))
    results = []
    for number, contender in enumerate(contenders):
        width = contender.run.model.hidden_size
        echo(
            f"{number + 1} of {len(contenders)}: {contender.name}, {contender.run.model.num_layers}x{width}, "
            f"{contender.parameters:,} parameters"
        )
        for index in range(seeds):
            _train(_run(contender, index), texts, folder.run(contender, index), command, echo)
        if not folder.bundle(contender).exists():
            options = ExportOptions(to=folder.path / "models", name=contender.name, version="1", variants=FP32)
            export(RunDir(folder.run(contender, 0)).best, options)
        results.append(_result(contender, folder, seeds))
    times = serving_times([folder.bundle(contender) for contender in contenders])
    return [
        msgspec.structs.replace(result, ms_per_token=times[folder.bundle(contender)])
        for contender, result in zip(contenders, results, strict=True)
    ]


def write_results(path: Path, results: Sequence[Result], recommendation: Recommendation) -> None:
    """Writes what `compare` found, and what is made of it, as JSON."""
    content = msgspec.json.encode({"recommendation": recommendation, "results": results})
    path.write_bytes(msgspec.json.format(content, indent=2) + b"\n")


def _train(run: LanguageModelRun, texts: Texts, run_dir: Path, command: str, echo: Echo) -> None:
    files = RunDir(run_dir)
    if files.best.exists() and "top1_accuracy" in load_checkpoint(files.best).metrics:
        echo(f"{run_dir.name}: is trained already")
        return
    outcome = language_model_run.run(
        run,
        run_dir,
        resume=files.last.exists(),
        command=command,
        echo=echo,
        texts=texts,
        next_step=False,
    )
    if outcome.ending == "interrupted":
        raise Interrupted


def _run(contender: Contender, index: int) -> LanguageModelRun:
    training = contender.run.training
    return msgspec.structs.replace(
        contender.run, training=msgspec.structs.replace(training, seed=training.seed + index)
    )


def _result(contender: Contender, folder: Folder, seeds: int) -> Result:
    checkpoints = [load_checkpoint(RunDir(folder.run(contender, index)).best) for index in range(seeds)]
    log = read_log(RunDir(folder.run(contender, 0)).log)
    return Result(
        name=contender.name,
        cell=contender.cell,
        connections=contender.connections,
        hidden_size=contender.run.model.hidden_size,
        parameters=contender.parameters,
        perplexities=[checkpoint.metrics["perplexity"] for checkpoint in checkpoints],
        tokens_per_s=statistics.median(line["tokens_per_s"] for line in log),
        epochs=log[-1]["epoch"],
        seconds=log[-1]["seconds"],
        bundle_bytes=sum(path.stat().st_size for path in folder.bundle(contender).iterdir()),
    )
