"""What both clients share: the server's address, the channel's options and the meaning of a failed call."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import grpc.aio

from hiddenstate.errors import CallCancelledError, call_error

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 10.0
_ENDLESS_S = 1e9  # 30 years
# Of one message, either way. gRPC's own limit for replies, 4 MiB, is 2,700 vectors of 384 components.
DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_GRPC_SCHEME = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds|passthrough):.+")

# gRPC makes a call again by itself where that is safe: every one of these computes the same answer again. Streams are
# left out: gRPC core 1.85 was seen to hang, past any deadline, on a retried stream whose server had gone.
# What rides on a shared stream keeps to the same numbers (retries.py).
RETRY_MOST_ATTEMPTS = 4
RETRY_BACKOFF_S = 0.1
_RETRY = {
    "maxAttempts": RETRY_MOST_ATTEMPTS,
    "initialBackoff": f"{RETRY_BACKOFF_S}s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
}
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "hiddenstate.v1.LanguageModelService", "method": "Predict"},
                {"service": "hiddenstate.v1.LanguageModelService", "method": "Score"},
                {"service": "hiddenstate.v1.ModelService"},
            ],
            "retryPolicy": {**_RETRY, "retryableStatusCodes": ["UNAVAILABLE"]},
        },
        {
            # A full queue may have room a moment later: a bulk of sentences just waits, a single call should be told.
            "name": [{"service": "hiddenstate.v1.SentenceEncoderService", "method": "Encode"}],
            "retryPolicy": {**_RETRY, "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]},
        },
    ]
}


class Connection:
    """Where calls go, how long they may take, and whether they still may be made."""

    def __init__(
        self, address: str, timeout_s: float | None, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    ) -> None:
        self.address = check_address(address)
        self.closed = False
        # gRPC takes a negative limit for none.
        self.max_message_bytes = max_message_bytes if max_message_bytes >= 0 else 2**31 - 1
        self._timeout_s = timeout_s

    def timeout(self, timeout_s: float | None) -> float | None:
        """Returns the seconds that a call may take: its own choice, or the client's. None sets no limit."""
        wanted = self._timeout_s if timeout_s is None else timeout_s
        # gRPC's clock would overflow: infinity was a deadline that had passed.
        return None if wanted is None or wanted > _ENDLESS_S else wanted

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


def check_address(address: str) -> str:
    """Returns an address that gRPC can use as it was given: HOST:PORT, or one with a gRPC scheme such as unix:PATH.

    Raises:
        ValueError: the address has no port, a port over 65535 or an http:// before it. gRPC would take port 443 for
            the first and another port than the one given for the second.
    """
    if _GRPC_SCHEME.fullmatch(address):
        return address
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise ValueError(f"address {address!r} is not HOST:PORT, for example {DEFAULT_ADDRESS}")
    return address


def channel_options(max_message_bytes: int) -> tuple[tuple[str, str | int], ...]:
    """Returns the options of a channel to a hiddenstate server."""
    return (
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        # A server that was started again is found at once, not after gRPC's first wait of a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5000),
    )


def _task_is_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop here: this is the synchronous client
        return False
    return task is not None and task.cancelling() > 0
