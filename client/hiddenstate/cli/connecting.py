"""The options that every command that asks a server has, and the client that they make."""

import functools
from collections.abc import Callable
from typing import Any

import click

from hiddenstate.client import Client
from hiddenstate.connection import DEFAULT_TIMEOUT_S
from hiddenstate.endpoints import DEFAULT_ADDRESS, check_address


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options --server and --timeout-s."""
    command = click.option(
        "--timeout-s",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_TIMEOUT_S,
        show_default=True,
        help="The most seconds that one call may take.",
    )(command)
    return click.option(
        "--server",
        metavar="HOST:PORT[,...]",
        envvar="HIDDENSTATE_SERVER",
        default=DEFAULT_ADDRESS,
        show_default=True,
        show_envvar=True,
        callback=_addresses,
        help="Address of the server, or of several that do the same.",
    )(command)


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `server_options`, and the client they make as its first argument."""

    @server_options
    @functools.wraps(command)
    def connected(*, server: str, timeout_s: float, **options: Any) -> None:
        with _client(server, timeout_s) as client:
            command(client, **options)

    return connected


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options --model and --model-version."""
    command = click.option("--model-version", default="", help="Version of the model.  [default: the newest]")(command)
    return click.option(
        "--model", default="", help="Name of the model.  [default: the server's only model of that kind]"
    )(command)


def _client(server: str, timeout_s: float) -> Client:
    try:
        return Client(server.split(","), timeout_s=timeout_s)
    except ValueError as error:  # names that cannot be found
        raise click.BadParameter(str(error), param_hint="--server") from None


def _addresses(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return ",".join(check_address(address) for address in value.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None
