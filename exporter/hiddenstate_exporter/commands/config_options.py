"""The options that a run's TOML file is given and changed with, and how other options stand for keys of it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The run as a TOML file; other options are laid over it.  [default: with --resume, that of the run]",
)
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the run, for example optimizer.lr=20; `none` for no value. Repeatable.",
)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --config and --set."""
    return CONFIG(SET(command))


def given_keys(ctx: click.Context, keys: Mapping[str, str]) -> list[tuple[str, Any]]:
    """Returns the keys, with values, of options that were given on the command line; `keys` is by option."""
    given = ParameterSource.COMMANDLINE
    return [(key, ctx.params[name]) for name, key in keys.items() if ctx.get_parameter_source(name) is given]
