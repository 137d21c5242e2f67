"""`hiddenstate serve`: every setting as a flag and an environment variable."""

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hiddenstate_server.config import (
    KIB,
    MIB,
    EngineSettings,
    Group,
    Setting,
    Settings,
    choices_of,
    declared,
    environment_variable,
    flag,
)
from hiddenstate_server.errors import BundleError, ConfigError, WorkersError


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A number of bytes: 4194304, 4096KiB or 4MiB."""

    name = "bytes"
    units = {"": 1, "kib": KIB, "mib": MIB, "gib": KIB * MIB}  # noqa: RUF012 - click declares `name` alike

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Reads a number with or without a unit."""
        match = re.fullmatch(r"(\d+) ?([kmg]ib|)", str(value), re.IGNORECASE | re.ASCII)
        if match is None:
            self.fail(f"{value!r} is not a number of bytes, for example 4194304 or 4MiB", param, ctx)
        return int(match[1]) * self.units[match[2].lower()]


class Number(click.ParamType):  # type: ignore[type-arg]
    """A number of what the name of its flag says."""

    name = "number"

    def __init__(self, what: str) -> None:
        self._what = what  # a number, or what it is a number of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads a number; none has a unit."""
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is not {self._what}, for example 30 or 0.5, without a unit", param, ctx)


class PathOrUrl(click.ParamType):  # type: ignore[type-arg]
    """A path, or a URL as it stands: a path would make one slash of two."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """Makes a path of what is no URL."""
        return value if "://" in str(value) else Path(value)


class GroupedCommand(click.Command):
    """A command whose help shows its options by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section for each group."""
        groups = {name: setting.group for name, (_, _, setting) in _declared()}
        for group in (*typing.get_args(Group), None):
            parameters = [parameter for parameter in self.get_params(ctx) if groups.get(parameter.name or "") == group]
            with formatter.section(group or "Other"):
                formatter.write_dl([record for each in parameters if (record := each.get_help_record(ctx))])


def _declared() -> Iterator[tuple[str, tuple[Any, Any, Setting]]]:
    yield from declared(Settings)
    yield from declared(EngineSettings)


def _option(name: str, kind: Any, default: Any, setting: Setting) -> click.Option:
    return click.Option(
        [flag(name)],
        type=_type(kind, setting),
        is_flag=kind is bool,
        default=_text(default) if setting.is_bytes else default,
        metavar=setting.metavar or ("N" if kind is int else None),
        help=setting.help,
        envvar=environment_variable(name),
        show_envvar=True,
        show_default=True,
    )


def _type(kind: Any, setting: Setting) -> Any:
    if setting.is_bytes:
        return Bytes()
    if choices := choices_of(kind):
        return click.Choice(choices, case_sensitive=False)
    if kind is float:
        return Number("a number of seconds" if setting.metavar == "SECONDS" else "a number")
    if kind == Path | str:
        return PathOrUrl()
    return click.Path(path_type=Path) if kind in (Path, Path | None) else kind


def _text(size: int) -> str:
    return f"{size // MIB}MiB" if size % MIB == 0 else str(size)


def _serve(**values: Any) -> None:
    try:
        settings = Settings.of(**values)
    except ConfigError as error:
        raise click.UsageError(_with_variable(str(error))) from None
    from hiddenstate_server.app import run  # loads ONNX Runtime, which --help does not need

    try:
        run(settings)
    except (BundleError, ConfigError, WorkersError) as error:
        raise click.ClickException(_with_variable(str(error))) from None


def _with_variable(message: str) -> str:
    """Adds the environment variable to a message that begins with a flag whose value came from there."""
    found = re.match(r"--[a-z0-9-]+", message)
    context = click.get_current_context(silent=True)
    if not found or context is None:
        return message
    name = found[0].removeprefix("--").replace("-", "_")
    if context.get_parameter_source(name) is not ParameterSource.ENVIRONMENT:
        return message
    return f"{found[0]} ({environment_variable(name)}){message[found.end() :]}"


serve = GroupedCommand(
    "serve",
    callback=_serve,
    params=[_option(name, *more) for name, more in _declared()],
    context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]},
    help="""Serve models over gRPC.

    Serves the newest version of each model in --models until SIGTERM or SIGINT, then lets running calls finish. Each
    option can also be given as the environment variable that stands beside it.

    \b
    Examples:
      hiddenstate serve
      hiddenstate serve --models /srv/models --listen 0.0.0.0:50051 --metrics 0.0.0.0:9464
      HIDDENSTATE_LOG_FORMAT=json hiddenstate serve --provider cuda --max-batch 256
    """,
)
