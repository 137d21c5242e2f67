"""What is said at the start: the two lines that say that the server serves, and to whom it is open."""

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from hiddenstate_server.config import Address, Settings

DEFAULT_PORT = 50051

_log = logging.getLogger(__name__)


class Offer(msgspec.Struct, frozen=True):
    """What is served, and a command to try it."""

    models: str
    command: str
    model_option: str


def announcement(
    offer: Offer, address: Address, metrics_address: Address | None, settings: Settings
) -> tuple[str, str]:
    """Returns what is served where, and a command to try."""
    scheme = "https" if settings.metrics_tls else "http"
    metrics = f"metrics on {scheme}://{metrics_address}/metrics" if metrics_address else "metrics off"
    return (
        f"Serving {offer.models} on {address}, {metrics}",
        f"Try: {_key(settings)}{_program()} {offer.command}{offer.model_option}{_server_option(address)}"
        f"{_tls_options(settings)}",
    )


def announce(lines: Sequence[str]) -> None:
    """Prints lines. Where standard output takes none, as on a full disk, the log says so, and nothing else is lost."""
    try:
        for line in lines:
            click.echo(line)
    except OSError as error:
        _log.warning("standard output takes nothing (%s): %s", error.strerror, "; ".join(lines))
        # What was not taken would be written once more at the exit, and fail that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn_of_strangers(address: Address, settings: Settings) -> None:
    """Logs a warning where anybody who reaches the address is served."""
    if warning := exposure(address, settings):
        _log.warning("%s", warning)


def exposure(address: Address, settings: Settings) -> str | None:
    """Returns what strangers may do and which flags change it; None where they cannot call, or need TLS or a key."""
    if address.is_loopback or settings.tls_cert or settings.keys_file:
        return None
    manages = settings.engine.repository_calls == "on" and settings.workers == 1
    may = "use, load and unload all models" if manages else "use all models"
    return (
        f"--listen {address} is open: anybody who reaches it may {may}, and on the way there what is sent can be read "
        "and changed. --keys-file asks for keys, --tls-cert and --tls-key bring TLS, and --tls-client-ca beside them "
        f"asks for certificates; with --listen {Address('127.0.0.1', address.port)} only this machine can call"
    )


def _program() -> str:
    """Returns how the person who started the server calls the command: not every virtual environment is activated."""
    program = Path(sys.argv[0])
    if program.name != "hiddenstate" or shutil.which(program.name) == str(program.absolute()):
        return "hiddenstate"
    return os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)


def _server_option(address: Address) -> str:
    """Returns what a client on this machine has to add to find the server."""
    host = "127.0.0.1" if address.host in ("0.0.0.0", "::") else address.host
    if host in ("127.0.0.1", "localhost") and address.port == DEFAULT_PORT:
        return ""
    return f" --server {Address(host, address.port)}"


def _key(settings: Settings) -> str:
    """Returns what has to stand before a command that shows an API key."""
    return "HIDDENSTATE_API_KEY=KEY " if settings.keys_file else ""


def _tls_options(settings: Settings) -> str:
    """Returns what a client has to add that is to speak TLS; the names of its files are for the reader to fill in."""
    if not settings.tls_cert:
        return ""
    own = " --tls-cert CLIENT.pem --tls-key CLIENT.key" if settings.tls_client_ca else ""
    return f" --tls-ca CA.pem{own}"
