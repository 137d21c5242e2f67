"""The options that every command that asks a server has, and the client that they make."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import grpc

from hiddenstate.client import Client
from hiddenstate.connection import DEFAULT_TIMEOUT_S
from hiddenstate.credentials import check_api_key, tls_credentials
from hiddenstate.endpoints import DEFAULT_ADDRESS, check_address

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Server(NamedTuple):
    """Which server to ask, or which of several that do the same, and how."""

    address: str  # several are separated by commas
    timeout_s: float
    credentials: grpc.ChannelCredentials | None  # None speaks plain text
    api_key: str | None


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say which server to ask; they come as one argument, `server`."""

    @functools.wraps(command)
    def with_server(
        *,
        server: str,
        timeout_s: float,
        tls: bool,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        api_key: str | None,
        **options: Any,
    ) -> None:
        credentials = _credentials(tls_ca, tls_cert, tls_key) if tls or tls_ca or tls_cert or tls_key else None
        command(server=Server(server, timeout_s, credentials, api_key), **options)

    for option in reversed(_OPTIONS):
        with_server = option(with_server)
    return with_server


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of `server_options`, and the client they make as its first argument."""

    @server_options
    @functools.wraps(command)
    def connected(*, server: Server, **options: Any) -> None:
        with _client(server) as client:
            command(client, **options)

    return connected


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options --model and --model-version."""
    command = click.option("--model-version", default="", help="Version of the model.  [default: the newest]")(command)
    return click.option(
        "--model", default="", help="Name of the model.  [default: the server's only model of that kind]"
    )(command)


def _client(server: Server) -> Client:
    try:
        return Client(
            server.address.split(","),
            timeout_s=server.timeout_s,
            credentials=server.credentials,
            api_key=server.api_key,
        )
    except ValueError as error:  # names that cannot be found
        raise click.BadParameter(str(error), param_hint="--server") from None


def _credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    if (cert is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key: give both or none")
    try:
        return tls_credentials(ca=ca, cert=cert, key=key)
    except ValueError as error:
        raise click.UsageError(f"--tls-{error}") from None


def _addresses(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return ",".join(check_address(address) for address in value.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None


def _seconds(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    if math.isnan(value):  # which is outside of no range
        raise click.BadParameter("nan is not a number of seconds", ctx, parameter)
    return value


def _api_key(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return check_api_key(value or None)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--server",
        metavar="HOST:PORT[,...]",
        envvar="HIDDENSTATE_SERVER",
        default=DEFAULT_ADDRESS,
        show_default=True,
        show_envvar=True,
        callback=_addresses,
        help="Address of the server, or of several that do the same.",
    ),
    click.option(
        "--timeout-s",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_TIMEOUT_S,
        show_default=True,
        callback=_seconds,
        help="The most seconds that one call may take.",
    ),
    click.option(
        "--tls",
        is_flag=True,
        envvar="HIDDENSTATE_TLS",
        show_envvar=True,
        help="Speak TLS, and trust the authorities that the system trusts.",
    ),
    click.option(
        "--tls-ca",
        type=FILE,
        envvar="HIDDENSTATE_TLS_CA",
        show_envvar=True,
        help="Speak TLS, and trust the authorities in this file (PEM).",
    ),
    # Not HIDDENSTATE_TLS_CERT and the like: those are the server's.
    click.option(
        "--tls-cert",
        type=FILE,
        envvar="HIDDENSTATE_CLIENT_CERT",
        show_envvar=True,
        help="Certificate (PEM) to show to a server that asks for one.",
    ),
    click.option(
        "--tls-key",
        type=FILE,
        envvar="HIDDENSTATE_CLIENT_KEY",
        show_envvar=True,
        help="Private key (PEM) of that certificate.",
    ),
    click.option(
        "--api-key",
        envvar="HIDDENSTATE_API_KEY",
        show_envvar=True,
        callback=_api_key,
        help="Key to show to a server that asks for one. The variable keeps it out of the list of processes.",
    ),
)
