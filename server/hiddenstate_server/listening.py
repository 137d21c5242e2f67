"""Ports: whether one can be listened at, and one that several processes share."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EADDRINUSE, EADDRNOTAVAIL

from hiddenstate_server.config import Address, flag
from hiddenstate_server.errors import ConfigError

_NO_HOST = "; give an address of this machine, for example 127.0.0.1, or 0.0.0.0 for all of them"
_WAYS_OUT = {
    EADDRINUSE: "; end what listens there, or choose another port (0 takes a free one)",
    EADDRNOTAVAIL: _NO_HOST,
}


def check_can_listen(name: str, address: Address) -> None:
    """Tries the address of a setting: what gRPC says of one that it cannot bind names no reason.

    Raises:
        ConfigError: it cannot be listened at.
    """
    with _bound(name, address):
        pass


@contextmanager
def shared_port(name: str, address: Address) -> Iterator[Address]:
    """Takes a port that processes with SO_REUSEPORT share, and keeps it for them. Port 0 takes a free one.

    It is bound and never listens, so that no call comes here.

    Raises:
        ConfigError: it cannot be listened at, or this system cannot share ports.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError(f"{flag('workers')}: this system has no SO_REUSEPORT, so that processes cannot share a port")
    check_can_listen(name, address)  # with SO_REUSEPORT, another server of ours would not be noticed
    with _bound(name, address, socket.SO_REUSEPORT) as holder:
        # Else a server that starts while nobody listens yet would not notice this one.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield Address(address.host, holder.getsockname()[1])


@contextmanager
def _bound(name: str, address: Address, *options: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, sockaddr = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot_listen(name, address, error) from None
    with bound:
        try:
            for option in (socket.SO_REUSEADDR, *options):
                bound.setsockopt(socket.SOL_SOCKET, option, 1)
            bound.bind(sockaddr)
        except OSError as error:
            raise _cannot_listen(name, address, error) from None
        yield bound


def _cannot_listen(name: str, address: Address, error: OSError) -> ConfigError:
    way_out = _NO_HOST if isinstance(error, socket.gaierror) else _WAYS_OUT.get(error.errno or 0, "")
    return ConfigError(f"{flag(name)} {address}: cannot listen there: {error.strerror}{way_out}")
