"""The options that a run's TOML file is given and changed with, and how other options stand for keys of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hiddenstate_exporter.training.run_config import Run, Tables, lay_over, make_run, read_setting, read_tables

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


def read_run(
    kind: type[Run], ctx: click.Context, changes: Sequence[tuple[str, Any]], *, resumed: Path | None = None
) -> Run:
    """Reads a run: the file of --config, or else that of the run folder `resumed`; then `changes`; then --set.

    Raises:
        RunConfigError: a file, a key or a value is wrong; the message names it.
        ValueError: nothing was given, and `resumed` has no file.
    """
    path: Path | None = ctx.params["config_path"]
    settings = [read_setting(text) for text in ctx.params["settings"]]
    if path is None and resumed is not None:
        kept = resumed / "config.toml"
        path = kept if kept.is_file() else None
        if path is None and not changes and not settings:
            raise ValueError(f"{kept}: no such file; there is nothing to resume (leave --resume out to start)")
    tables: Tables = read_tables(path) if path is not None else {}
    return make_run(kind, lay_over(tables, [*changes, *settings]), str(path or "the command line"))
