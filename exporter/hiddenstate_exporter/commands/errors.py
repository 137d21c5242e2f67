"""What the exporter's commands share: errors as one line with exit code 1, and the command as it was given."""

import functools
import shlex
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

import click
from click.core import ParameterSource

P = ParamSpec("P")
R = TypeVar("R")

EXIT_INTERRUPTED: Final = 130  # as a shell says it of a command that Ctrl-C ended


def clear_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a command print its own errors, and a missing extra, as one line instead of a traceback."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ModuleNotFoundError as error:
            raise click.ClickException(f"{error}; install it with: pip install 'hiddenstate[exporter]'") from error
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted; what was saved before is whole, and nothing half-written is left", err=True)
            click.get_current_context().exit(EXIT_INTERRUPTED)

    return wrapper


def command_line(ctx: click.Context, leave_out: Sequence[str] = (), parent: Sequence[str] = ("train",)) -> str:
    """Returns the command that was given, in the order of its options, as a person would type it."""
    words = ["hiddenstate", *parent, ctx.command.name or ""]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in leave_out:
            words += _words(parameter, ctx.params[name])
    return shlex.join(words)


def _words(parameter: click.Parameter, value: object) -> list[str]:
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return [parameter.opts[0] if value else parameter.secondary_opts[0]]
    values = value if isinstance(value, tuple) else (value,)
    return [word for one in values for word in (parameter.opts[0], f"{one:g}" if isinstance(one, float) else str(one))]
