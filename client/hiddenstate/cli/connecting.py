"""The options that every command that asks a server has, and the client that they make."""

import functools
from collections.abc import Callable
from typing import Any

import click

from hiddenstate.client import Client
from hiddenstate.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, check_address


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
        metavar="HOST:PORT",
        envvar="HIDDENSTATE_SERVER",
        default=DEFAULT_ADDRESS,
        show_default=True,
        show_envvar=True,
        callback=_address,
        help="Address of the server.",
    )(command)


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `server_options`, and the client they make as its first argument."""

    @server_options
    @functools.wraps(command)
    def connected(*, server: str, timeout_s: float, **options: Any) -> None:
        with Client(server, timeout_s=timeout_s) as client:
            command(client, **options)

    return connected


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options --model and --model-version."""
    command = click.option("--model-version", default="", help="Version of the model.  [default: the newest]")(command)
    return click.option(
        "--model", default="", help="Name of the model.  [default: the server's only model of that kind]"
    )(command)


def _address(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return check_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None
