"""What both clients share: where the servers are, the channel's options and the meaning of a failed call."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import grpc
import grpc.aio

from hiddenstate.budget import RetryBudget
from hiddenstate.endpoints import Endpoints
from hiddenstate.errors import CallCancelledError, InvalidRequestError, call_error
from hiddenstate.refusals import refusal

DEFAULT_TIMEOUT_S = 10.0
_ENDLESS_S = 1e9  # 30 years
_ENDLESS_MS = 2**31 - 1  # as gRPC has it
_MOST_BYTES = 2**31 - 1
# Of one message, either way. gRPC's own limit for replies, 4 MiB, is 2,700 vectors of 384 components.
DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20

# A connection whose other end is gone without a word is found out by a ping after so long a silence, and closed where
# that has no answer. The server allows a ping every 5 s.
DEFAULT_KEEPALIVE_S = 20.0
_KEEPALIVE_TIMEOUT_S = 10.0

# gRPC makes a call again by itself where that is safe: every one of these computes the same answer again. Streams are
# left out: gRPC core 1.85 was seen to hang, past any deadline, on a retried stream whose server had gone.
# CANCELLED, where nobody here cancelled, says that more calls came to the server at once than it would look at.
# RESOURCE_EXHAUSTED is left to retries.py: gRPC would also repeat what is too large for the server at any time.
# What rides on a shared stream keeps to the same numbers (retries.py).
RETRY_MOST_ATTEMPTS = 4
RETRY_BACKOFF_S = 0.1
_RETRY = {
    "maxAttempts": RETRY_MOST_ATTEMPTS,
    "initialBackoff": f"{RETRY_BACKOFF_S}s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
_SERVICE_CONFIG: dict[str, Any] = {
    # The same for calls of their own as budget.py is for those on streams.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [
                {"service": "hiddenstate.v1.LanguageModelService", "method": "Predict"},
                {"service": "hiddenstate.v1.LanguageModelService", "method": "Score"},
                {"service": "hiddenstate.v1.SentenceEncoderService", "method": "Encode"},
                {"service": "hiddenstate.v1.ModelService"},
            ],
            "retryPolicy": _RETRY,
        },
    ],
}
# Servers take turns, and one that says that it does not serve (since it drains) is given nothing more.
_BALANCED = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}


class Connection:
    """Where calls go, how long they may take, and whether they still may be made."""

    def __init__(
        self,
        address: str | Sequence[str],
        timeout_s: float | None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """Connects to nothing yet.

        Raises:
            ValueError: a value cannot be used; the message names it.
        """
        self.endpoints = Endpoints.of(address)
        self.address = self.endpoints.text
        self.budget = RetryBudget()
        self.closed = False
        if not isinstance(max_message_bytes, Integral) or not 0 < max_message_bytes <= _MOST_BYTES:
            allowed = "a whole number of bytes from 1 to 2**31 - 1"
            raise ValueError(f"max_message_bytes: is {max_message_bytes!r}; it must be {allowed}")
        self.max_message_bytes: int = max_message_bytes
        self._timeout_s: float | None = None
        try:
            self._timeout_s = self.timeout(timeout_s)
        except InvalidRequestError as error:
            raise ValueError(f"{error}, or None for no limit") from None

    def timeout(self, timeout_s: float | None) -> float | None:
        """Returns the seconds that a call may take: its own choice, or the client's. None sets no limit.

        Raises:
            InvalidRequestError: it is no number above 0.
        """
        wanted = self._timeout_s if timeout_s is None else timeout_s
        try:
            if wanted is None or wanted > _ENDLESS_S:  # gRPC's clock would overflow: infinity was a deadline passed
                return None
            if wanted > 0:
                return float(wanted)
        except (TypeError, ValueError):  # it cannot be compared
            pass
        raise InvalidRequestError(refusal("timeout_s", wanted))

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Raises what fails inside as one of hiddenstate's errors."""
        if self.closed:
            raise CallCancelledError("the client is closed")
        try:
            yield
        except grpc.RpcError as error:
            raise call_error(error, self.address) from error
        except (ValueError, grpc.aio.UsageError, asyncio.CancelledError) as error:
            # gRPC's ways to say that the channel was closed meanwhile. A task that was cancelled itself stays so.
            if not self.closed or _task_is_cancelled():
                raise
            raise CallCancelledError("the client was closed") from error


def channel_options(
    max_message_bytes: int, endpoints: Endpoints | None = None, keepalive_s: float = DEFAULT_KEEPALIVE_S
) -> tuple[tuple[str, str | int], ...]:
    """Returns the options of a channel to a hiddenstate server, or to several.

    Raises:
        ValueError: keepalive_s is not above 0.
    """
    if not (isinstance(keepalive_s, Real) and keepalive_s > 0):
        raise ValueError(f"keepalive_s: is {keepalive_s!r}; it must be above 0 seconds")
    answer_ms = int(1000 * min(keepalive_s, _KEEPALIVE_TIMEOUT_S))
    are_several = endpoints is not None and endpoints.are_several
    config = _SERVICE_CONFIG | _BALANCED if are_several else _SERVICE_CONFIG
    authority = (("grpc.default_authority", endpoints.authority),) if endpoints and endpoints.authority else ()
    return (
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.service_config", json.dumps(config)),
        # A server that was started again is found at once, not after gRPC's first wait of a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.keepalive_time_ms", int(1000 * min(keepalive_s, _ENDLESS_MS / 1000))),
        ("grpc.keepalive_timeout_ms", answer_ms),
        # This one counts in gRPC core 1.85, and is a minute by default.
        ("grpc.http2.ping_timeout_ms", answer_ms),
        ("grpc.http2.max_pings_without_data", 0),  # else they end after two
        *authority,
    )


def _task_is_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop here: this is the synchronous client
        return False
    return task is not None and task.cancelling() > 0
