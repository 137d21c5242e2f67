"""The options of the commands that publish a model, and of those that measure one."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hiddenstate_exporter.publishing.export import ExportOptions

DATA = click.option(
    "--data",
    "sources",
    multiple=True,
    metavar="SOURCE",
    help="Text to measure a language model on: a .txt or .txt.xz file, a folder of them, or package:NAME. Repeatable.",
)
PART = click.option(
    "--part",
    type=click.Choice(["test", "valid", "train", "all"]),
    default="test",
    help="Which part of the text, as training divides it. test was held out, if the sources are those of the training; "
    "all is for text that the model has never seen.",
)
STS = click.option(
    "--sts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Sentence pairs to measure a sentence encoder on, in the form of the STS Benchmark.",
)

VARIANTS = ("fp32", "fp16", "int8")


class Variants(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """Names of variants with commas between them."""

    name = "variants"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Reads a list, in which fp32 must stand."""
        names = value if isinstance(value, tuple) else tuple(name.strip() for name in value.split(","))
        for name in names:
            if name not in VARIANTS:
                self.fail(f"{name!r} is none of {', '.join(VARIANTS)}", param, ctx)
        if names and "fp32" not in names:
            self.fail("fp32 is missing: servers fall back on it, and the others are measured against it", param, ctx)
        return names


def publication_options(*, name: str, license: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator that adds the options; `name` and `license` are the help of those two."""
    options = [
        click.option(
            "--to",
            type=click.Path(path_type=Path, file_okay=False),
            required=True,
            metavar="FOLDER",
            help="Folder of models; the bundle becomes FOLDER/NAME/VERSION.",
        ),
        click.option("--name", help=name),
        click.option(
            "--version",
            help="Version of the model. Servers take the newest by its name, numbers before words.  [default: the next "
            "whole number]",
        ),
        click.option("--license", metavar="TEXT", help=license),
        click.option(
            "--dtype",
            type=click.Choice(["float16", "float32"]),
            default="float16",
            help="What weights are stored in, whatever the graphs compute in.",
        ),
        click.option(
            "--variants",
            type=Variants(),
            default=(),
            metavar="LIST",
            help="Graphs to publish, with commas between: fp32, and beside it int8 (for CPUs), fp16 (for GPUs) or "
            "both. If some do not pass their checks, nothing is published.  [default: fp32, and int8 if it passes its "
            "checks]",
        ),
        click.option(
            "--fold-limit",
            type=click.IntRange(min=0),
            default=256,
            metavar="MIB",
            help="Memory that the embedding of int8 graphs may take once a server has multiplied it with the first "
            "layer's weights; above it, those are multiplied for each token.",
        ),
        click.option(
            "--check", is_flag=True, help="Go through everything and say what would be published, but write nothing."
        ),
        DATA,
        PART,
        STS,
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def take_publication(
    *, sources: Sequence[str], part: Any, sts: Path | None, fold_limit: int, **options: Any
) -> "ExportOptions":
    """Returns what the options say."""
    from hiddenstate_exporter.publishing.export import ExportOptions
    from hiddenstate_exporter.publishing.measurement import Data

    data = Data(sources=sources, part=part, sts=sts)
    return ExportOptions(data=data, fold_limit=fold_limit * 1024 * 1024, **options)


def track(sequence: Sequence[Any]) -> Iterable[Any]:
    """Shows a progress bar on a terminal; on standard error, so that standard output holds results only."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    return progress.track(sequence, "measuring", console=console, transient=True, disable=not console.is_terminal)
