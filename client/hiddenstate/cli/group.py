"""The command group: commands of the extras load when they are called, and errors become one line."""

import errno
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from hiddenstate.errors import DeadlineError, HiddenstateError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True)
class ExtraCommand:
    """A command that comes with an extra of the package."""

    module: str
    extra: str
    help: str  # shown in the list of commands, which must not load them all
    function: str = ""  # in the module, where it is not the command's name


_EXTRA_COMMANDS = {
    "serve": ExtraCommand("hiddenstate_server.cli", "server", "Serve models over gRPC."),
    "keys": ExtraCommand("hiddenstate_server.security.keys_command", "server", "Make and revoke API keys."),
    "top": ExtraCommand("hiddenstate.cli.top", "top", "Watch what a server does."),
    "train": ExtraCommand("hiddenstate_exporter.cli", "exporter", "Train a model in PyTorch."),
    "compare": ExtraCommand("hiddenstate_exporter.cli", "exporter", "Train several architectures, say which to take."),
    "inspect": ExtraCommand("hiddenstate_exporter.cli", "exporter", "Look into recurrent layers: gradients and gates."),
    "export": ExtraCommand("hiddenstate_exporter.cli", "exporter", "Turn a trained checkpoint into a served model."),
    "import": ExtraCommand(
        "hiddenstate_exporter.cli", "exporter", "Turn a model from elsewhere into a served model.", "import_"
    ),
    "evaluate": ExtraCommand("hiddenstate_exporter.cli", "exporter", "Measure a model on held-out data."),
}


# What installs an extra in a checkout.
_MAKE_TARGETS = {"server": "serve", "exporter": "exporter", "top": "serve"}


class MissingExtraError(click.ClickException):
    """A command needs packages that are not installed."""

    exit_code = 2


class Group(click.Group):
    """A group that knows the extras' commands by name and loads them when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_EXTRA_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        extra = _EXTRA_COMMANDS.get(cmd_name)
        return super().get_command(ctx, cmd_name) if extra is None else _load(cmd_name, extra)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, command.get_short_help_str(80)) for name, command in self.commands.items()]
        with formatter.section("Ask a server"):
            formatter.write_dl(rows)
        with formatter.section("Serve, watch and train (with the extras [server], [top] and [exporter])"):
            formatter.write_dl([(name, extra.help) for name, extra in _EXTRA_COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        # click would load every command to complete a name.
        return [CompletionItem(name) for name in self.list_commands(ctx) if name.startswith(incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HiddenstateError as error:
            raise click.ClickException(self._in_options(ctx, error)) from error
        except ModuleNotFoundError as error:
            raise _missing_extra(ctx.invoked_subcommand or "", error) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends quietly where nobody reads on
            raise click.ClickException(_in_words(error)) from error
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(130)  # as a shell reports a command that Ctrl-C ended

    def _in_options(self, ctx: click.Context, error: HiddenstateError) -> str:
        """Returns the message with the option of the command line in place of the API's name for it."""
        message = str(error)
        if isinstance(error, DeadlineError):
            return message.replace("timeout_s", "--timeout-s")
        command = self.commands.get(ctx.invoked_subcommand or "")
        field, colon, reason = message.partition(":")
        for parameter in command.params if command else ():
            if isinstance(parameter, click.Option) and parameter.name == field:
                return f"{max(parameter.opts, key=len)}{colon}{reason}"
        return message


def _load(name: str, extra: ExtraCommand) -> click.Command:
    try:
        command = getattr(importlib.import_module(extra.module), extra.function or name)
    except ModuleNotFoundError as error:
        raise _missing_extra(name, error) from error
    assert isinstance(command, click.Command)
    return command


def _in_words(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _missing_extra(name: str, error: ModuleNotFoundError) -> Exception:
    """Says which extra brings the module; a module of our own that is missing is a fault and stays one."""
    extra = _EXTRA_COMMANDS.get(name)
    missing = error.name or ""
    if extra is None or missing.startswith("hiddenstate"):
        return error
    return MissingExtraError(
        f"`hiddenstate {name}` comes with the extra {extra.extra}, which is not installed (there is no {missing}): "
        f"pip install 'hiddenstate[{extra.extra}]', or in a checkout: make {_MAKE_TARGETS[extra.extra]}"
    )
