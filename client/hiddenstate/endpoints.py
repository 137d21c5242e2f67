"""Where calls go: one server, or several that do the same."""

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple

DEFAULT_ADDRESS = "127.0.0.1:50051"

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/,\[\]]+):(?P<port>\d+)")
_URL = re.compile(r"(?P<scheme>\w+)://")
_GRPC_SCHEME = re.compile(r"(?P<scheme>unix|unix-abstract|dns|ipv4|ipv6|vsock|xds|passthrough):.+")
_SEVERAL = frozenset({"dns", "ipv4", "ipv6"})  # what these schemes name may be several servers

# Calls that share streams are spread over so many: more would leave each message with fewer requests.
_MOST_STREAMS = 8
_STREAMS_OF_A_NAME = 4  # nobody knows how many servers stand behind it


class Endpoints(NamedTuple):
    """One or several addresses, as gRPC takes them."""

    text: str  # as they were given, for messages
    target: str  # what gRPC connects to
    streams: int  # over which shared calls are spread; 1 where there is one server
    authority: str = ""  # the name that certificates must have; empty leaves it to gRPC

    @property
    def are_several(self) -> bool:
        """Whether there may be more than one server, so that one that fails is not the end."""
        return self.streams > 1

    @classmethod
    def of(cls, addresses: str | Sequence[str]) -> "Endpoints":
        """Checks addresses. Names in a list are looked up here; a name of its own whenever a connection is made.

        Raises:
            ValueError: an address is not one, or there is none.
        """
        if isinstance(addresses, str):
            return _of_one(check_address(addresses))
        if isinstance(addresses, bytes) or not isinstance(addresses, Iterable):
            raise _not_an_address(addresses)
        given = [check_address(address) for address in addresses]
        if not given:
            raise ValueError(f"address: the list is empty; give HOST:PORT, for example {DEFAULT_ADDRESS}")
        return _of_one(given[0]) if len(given) == 1 else _of_list(given)


def check_address(address: str) -> str:
    """Returns an address that gRPC can use as it was given: HOST:PORT, or one with a gRPC scheme such as unix:PATH.

    Raises:
        ValueError: the address has no port, a port over 65535 or an http:// before it. gRPC would take port 443 for
            the first and another port than the one given for the second.
    """
    if not isinstance(address, str):
        raise _not_an_address(address)
    if not _GRPC_SCHEME.fullmatch(address):
        _host_and_port(address)
    return address


def _host_and_port(address: str) -> tuple[str, int]:
    match = _HOST_PORT.fullmatch(address)
    if match is None:
        raise _not_an_address(address)
    if len(match["port"]) > 5 or not 0 < int(match["port"]) < 2**16:
        raise ValueError(f"address {address!r}: there is no port {match['port']}; they go from 1 to 65535")
    return match["host"].strip("[]"), int(match["port"])


def _not_an_address(given: object) -> ValueError:
    if isinstance(given, str) and (url := _URL.match(given)):
        way = "; TLS is asked for by credentials, or --tls" if url["scheme"] == "https" else ""
        alone = f"give HOST:PORT alone, without {url[0]} before it, for example {DEFAULT_ADDRESS}"
        return ValueError(f"address {given!r}: {alone}{way}")
    return ValueError(f"address {given!r} is not HOST:PORT, for example {DEFAULT_ADDRESS}")


def _of_one(address: str) -> Endpoints:
    if scheme := _GRPC_SCHEME.fullmatch(address):
        return Endpoints(address, address, _STREAMS_OF_A_NAME if scheme["scheme"] in _SEVERAL else 1)
    host, _ = _host_and_port(address)
    is_one = host == "localhost" or _is_number(host)
    return Endpoints(address, address, 1 if is_one else _STREAMS_OF_A_NAME)


def _of_list(addresses: Sequence[str]) -> Endpoints:
    """Makes one target of several: gRPC takes a list of numbers, all of one family."""
    if schemes := [address for address in addresses if _GRPC_SCHEME.fullmatch(address)]:
        raise ValueError(f"address {schemes[0]!r}: in a list, give HOST:PORT without a scheme")
    pairs = [_host_and_port(address) for address in addresses]
    found = list(dict.fromkeys(number for host, port in pairs for number in _numbers(host, port)))
    text = ", ".join(addresses)
    if not found:
        raise ValueError(f"address: none of {text} can be found; check the names, or give numbers")
    return Endpoints(text, _target(found), min(max(2, len(found)), _MOST_STREAMS), pairs[0][0])


def _numbers(host: str, port: int) -> list[tuple[str, int]]:
    try:
        records = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []  # the others may do
    numbers = [str(record[4][0]) for record in records]
    # A name that has both kinds of address is one machine twice; the list may be of one family only.
    return [(number, port) for number in [n for n in numbers if ":" not in n] or numbers]


def _target(found: Sequence[tuple[str, int]]) -> str:
    if not any(":" in number for number, _ in found):
        return "ipv4:" + ",".join(f"{number}:{port}" for number, port in found)
    numbers = [(number if ":" in number else f"::ffff:{number}", port) for number, port in found]
    return "ipv6:" + ",".join(f"[{number}]:{port}" for number, port in numbers)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
