"""The options of a language model's head."""

from collections.abc import Callable, Mapping
from typing import Any

import click
from click.core import ParameterSource

from hiddenstate_exporter.commands.stack_options import only_with

ADAPTIVE = "adaptive-softmax"


def head_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options."""
    options = [
        click.option(
            "--head",
            type=click.Choice(["softmax", ADAPTIVE]),
            default="softmax",
            help="How words get their probabilities; adaptive-softmax is for 100,000 words and more: rare ones get "
            "shorter vectors.",
        ),
        click.option(
            "--cutoffs",
            metavar="ID,ID,...",
            help="With --head adaptive-softmax: how many of the most frequent words have vectors of full width, and "
            "where each further cluster of rarer ones ends, except the last.",
        ),
        click.option(
            "--div-value",
            type=click.FloatRange(min=1),
            default=4.0,
            help="With --head adaptive-softmax: how much narrower the vectors of each cluster are.",
        ),
        click.option(
            "--tied/--untied",
            default=True,
            help="Share one table between embedding and decoder; an adaptive softmax has none to share.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def take_head(ctx: click.Context) -> Mapping[str, Any]:
    """Returns the fields of `LanguageModelConfig` that the options are about.

    Raises:
        click.UsageError: an option is not of that head, or is missing.
    """
    for name in ("cutoffs", "div_value"):
        only_with(ctx, name, "head", ADAPTIVE)
    fields = {name: ctx.params[name] for name in ("tied", "div_value")}
    if ctx.params["head"] != ADAPTIVE:
        return {**fields, "head": "softmax", "cutoffs": ()}
    if ctx.params["tied"] and ctx.get_parameter_source("tied") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--tied is for --head softmax: an adaptive softmax has no table to share")
    if not ctx.params["cutoffs"]:
        raise click.UsageError(f"--head {ADAPTIVE} needs --cutoffs, for example --cutoffs 2000,10000")
    return {**fields, "head": "adaptive_softmax", "tied": False, "cutoffs": _read_cutoffs(ctx.params["cutoffs"])}


def _read_cutoffs(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"--cutoffs {text!r} is not a list of numbers like 2000,10000") from None
