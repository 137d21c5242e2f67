"""How much one caller may use."""

import ipaddress
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from hiddenstate_server.config import Settings
from hiddenstate_server.errors import OverloadedError
from hiddenstate_server.security.ledger import Account, Cell


class Limits(NamedTuple):
    """What each caller may use; 0 sets no limit."""

    calls_per_s: float = 0.0
    tokens_per_s: float = 0.0
    streams: int = 0

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Returns those of the settings."""
        return cls(settings.caller_calls_per_s, settings.engine.caller_tokens_per_s, settings.caller_streams)


class Bucket:
    """Gives so much a second, and a second's worth at once. What is more waits for a full bucket and leaves a debt."""

    __slots__ = ("_clock", "_rate", "_size")

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` has to be the same for all who share a cell."""
        self._rate = rate
        self._size = max(1.0, rate)
        self._clock = clock

    def wait_s(self, cell: Cell, amount: float) -> float:
        """Returns after how many seconds so much may be taken; 0 if it may now."""
        now = self._clock()
        used = max(0.0, cell[0] - (now - cell[1]) * self._rate)
        cell[0], cell[1] = used, now
        return max(0.0, (used + min(amount, self._size) - self._size) / self._rate)

    def take(self, cell: Cell, amount: float) -> None:
        """Takes so much."""
        cell[0] += amount


class Use:
    """What one caller uses now."""

    def __init__(self, name: str, limits: Limits, account: Account) -> None:
        """`name` is for messages."""
        self._name = name
        self._limits = limits
        self._account = account
        self._calls = Bucket(limits.calls_per_s) if limits.calls_per_s else None
        self._tokens = Bucket(limits.tokens_per_s) if limits.tokens_per_s else None

    def begin_call(self) -> None:
        """Counts a call, or a request of a stream.

        Raises:
            OverloadedError: it is one too many.
        """
        if self._calls is None:
            return
        with self._account as used:
            if not (wait_s := self._calls.wait_s(used.calls, 1)):
                self._calls.take(used.calls, 1)
        if wait_s:
            rate = self._limits.calls_per_s
            raise OverloadedError(
                f"{self._name} may make {rate:g} calls a second (--caller-calls-per-s): send this one again later",
                reason="caller_calls",
                retry_after_s=wait_s,
            )

    def check_tokens(self, tokens: int) -> None:
        """Checks that so many tokens may be computed.

        Raises:
            OverloadedError: they may not now.
        """
        if self._tokens is None:
            return
        with self._account as used:
            wait_s = self._tokens.wait_s(used.tokens, tokens)
        if wait_s:
            raise OverloadedError(
                f"{self._name} may use {self._limits.tokens_per_s:g} tokens a second (--caller-tokens-per-s), and this "
                f"request has {tokens:,}: send it again later, or in smaller parts",
                reason="caller_tokens",
                retry_after_s=wait_s,
            )

    def take_tokens(self, tokens: int) -> None:
        """Counts tokens that will be computed."""
        if self._tokens is not None:
            with self._account as used:
                self._tokens.take(used.tokens, tokens)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts a stream as long as the block runs.

        Raises:
            OverloadedError: it is one too many.
        """
        if not self._limits.streams:
            yield
            return
        with self._account as used:
            if is_one_more := (streams := used.streams) < self._limits.streams:
                used.add_streams(1)
        if not is_one_more:
            raise OverloadedError(
                f"{self._name} has {streams} streams open, as many as it may (--caller-streams): "
                "end one, or send many requests over one",
                reason="caller_streams",
            )
        try:
            yield
        finally:
            with self._account as used:
                used.add_streams(-1)


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
