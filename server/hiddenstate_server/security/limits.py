"""How much one caller may use."""

import ipaddress
import time
from collections.abc import Callable
from typing import NamedTuple

from hiddenstate_server.errors import OverloadedError


class Limits(NamedTuple):
    """What each caller may use; 0 sets no limit."""

    calls_per_s: float = 0.0
    tokens_per_s: float = 0.0
    streams: int = 0


class Bucket:
    """Gives so much a second, and a second's worth at once. What is more waits for a full bucket and leaves a debt."""

    __slots__ = ("_at", "_clock", "_level", "_rate", "_size")

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._size = max(1.0, rate)
        self._level = self._size
        self._clock = clock
        self._at = clock()

    def wait_s(self, amount: float) -> float:
        """Returns after how many seconds so much may be taken; 0 if it may now."""
        now = self._clock()
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(amount, self._size) - self._level) / self._rate)

    def take(self, amount: float) -> None:
        """Takes so much."""
        self._level -= amount


class Use:
    """What one caller uses now."""

    def __init__(self, name: str, limits: Limits) -> None:
        """`name` is for messages."""
        self.streams = 0
        self._name = name
        self._limits = limits
        self._calls = Bucket(limits.calls_per_s) if limits.calls_per_s else None
        self._tokens = Bucket(limits.tokens_per_s) if limits.tokens_per_s else None

    def begin_call(self) -> None:
        """Counts a call, or a request of a stream.

        Raises:
            OverloadedError: it is one too many.
        """
        if self._calls is None:
            return
        if wait_s := self._calls.wait_s(1):
            rate = self._limits.calls_per_s
            raise OverloadedError(
                f"{self._name} may make {rate:g} calls a second (--caller-calls-per-s): send this one again later",
                retry_after_s=wait_s,
            )
        self._calls.take(1)

    def check_tokens(self, tokens: int) -> None:
        """Checks that so many tokens may be computed.

        Raises:
            OverloadedError: they may not now.
        """
        if self._tokens is not None and (wait_s := self._tokens.wait_s(tokens)):
            raise OverloadedError(
                f"{self._name} may use {self._limits.tokens_per_s:g} tokens a second (--caller-tokens-per-s), and this "
                f"request has {tokens:,}: send it again later, or in smaller parts",
                retry_after_s=wait_s,
            )

    def take_tokens(self, tokens: int) -> None:
        """Counts tokens that will be computed."""
        if self._tokens is not None:
            self._tokens.take(tokens)

    def check_stream(self) -> None:
        """Checks that one more stream may be open.

        Raises:
            OverloadedError: it is one too many.
        """
        if self._limits.streams and self.streams >= self._limits.streams:
            raise OverloadedError(
                f"{self._name} has {self.streams} streams open, as many as it may (--caller-streams): "
                "end one, or send many requests over one"
            )


def address_of(peer: str) -> str:
    """Returns who a gRPC peer is, without its port. Of IPv6 the first 64 bits: one caller has all that follows."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind  # unix sockets have no addresses
    host = rest.replace("%5B", "[").replace("%5D", "]").rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
