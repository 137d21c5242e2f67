"""The options of the recurrent layers, which all training commands have, and the keys of a run they stand for."""

from collections.abc import Callable
from typing import Any, Final

import click
from click.core import ParameterSource

from hiddenstate_exporter.graphs.stack_shape import MAX_LAYERS

STACK_KEYS: Final = {
    "cell": "model.cell",
    "connections": "model.connections",
    "embedding_size": "model.embedding_size",
    "hidden_size": "model.hidden_size",
    "num_layers": "model.num_layers",
    "forget_bias": "model.forget_bias",
}


def stack_options(
    *, hidden_size: int, num_layers: int, forget_bias: float | None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator that adds the options, with these defaults, above those that follow it."""
    drawn = "  [default: drawn at random]" if forget_bias is None else ""
    options = [
        click.option("--embedding-size", type=click.IntRange(min=1), default=256, help="Width of a token's vector."),
        click.option(
            "--cell",
            type=click.Choice(["rnn", "lstm", "gru"]),
            default="lstm",
            help="Kind of recurrent layer; rnn is the plain one, with tanh.",
        ),
        click.option(
            "--hidden-size",
            type=click.IntRange(min=1),
            default=hidden_size,
            help="Width of each recurrent layer, in each direction.",
        ),
        click.option(
            "--num-layers", type=click.IntRange(min=1, max=MAX_LAYERS), default=num_layers, help="Recurrent layers."
        ),
        click.option(
            "--connections",
            type=click.Choice(["none", "residual", "highway", "dense"]),
            default="none",
            help="Between layers. residual: a layer's input is added to its output; highway: a learned gate mixes the "
            "two; dense: each layer reads the embedding and the outputs of all lower layers.",
        ),
        click.option(
            "--forget-bias",
            type=float,
            default=forget_bias,
            help=f"Bias of LSTM forget gates when training begins; 1 or more keeps the past at first.{drawn}",
        ),
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def check_forget_bias(ctx: click.Context, cell: str) -> None:
    """Refuses --forget-bias for a run whose cells have no such gate."""
    only_with(ctx, "forget_bias", "cell", "lstm", chosen=cell)


def only_with(ctx: click.Context, name: str, other: str, value: str, *, chosen: str | None = None) -> None:
    """Refuses an option that means nothing beside what was chosen for another one, there or in the run's file.

    Raises:
        click.UsageError: it was given, and `chosen` (or else the other option) is not `value`.
    """
    chosen = chosen or ctx.params[other]
    if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE and chosen != value:
        option = name.replace("_", "-")
        raise click.UsageError(f"--{option} is for --{other} {value}, not for --{other} {chosen}")
