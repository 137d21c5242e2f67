"""The options of a language model's head."""

from collections.abc import Callable
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


def take_head(ctx: click.Context) -> list[tuple[str, Any]]:
    """Returns the keys of a run's table [model] that the options set, with their values.

    Raises:
        click.UsageError: an option is not of that head, or is missing.
    """
    given, head = {name: _is_given(ctx, name) for name in ("head", "tied", "div_value")}, ctx.params["head"]
    for name in ("cutoffs", "div_value"):
        only_with(ctx, name, "head", ADAPTIVE)
    changes = [(f"model.{name}", ctx.params[name]) for name in ("tied", "div_value") if given[name]]
    if head != ADAPTIVE:
        return [*changes, ("model.head", "softmax"), ("model.cutoffs", ())] if given["head"] else changes
    if ctx.params["tied"] and given["tied"]:
        raise click.UsageError("--tied is for --head softmax: an adaptive softmax has no table to share")
    if not ctx.params["cutoffs"]:
        raise click.UsageError(f"--head {ADAPTIVE} needs --cutoffs, for example --cutoffs 2000,10000")
    cutoffs = _read_cutoffs(ctx.params["cutoffs"])
    return [*changes, ("model.head", "adaptive_softmax"), ("model.tied", False), ("model.cutoffs", cutoffs)]


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _read_cutoffs(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"--cutoffs {text!r} is not a list of numbers like 2000,10000") from None
