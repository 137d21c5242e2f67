"""How a client proves who it is, and checks who the server is."""

from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import grpc


def tls_credentials(
    *, ca: str | Path | None = None, cert: str | Path | None = None, key: str | Path | None = None
) -> grpc.ChannelCredentials:
    """Returns credentials for a server that speaks TLS.

    Args:
        ca: File with the authorities (PEM) that may vouch for the server; None takes the system's.
        cert: File with the client's own certificate (PEM), for servers that ask for one.
        key: File with its private key (PEM).

    Raises:
        OSError: a file cannot be read.
        ValueError: only one of `cert` and `key` is given, one is no path, or a file holds no PEM.
    """
    if (cert is None) != (key is None):
        raise ValueError("cert and key: give both or none")
    return grpc.ssl_channel_credentials(_pem("ca", ca), _pem("key", key), _pem("cert", cert))


def _pem(name: str, path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    if not isinstance(path, str | PathLike) or "-----BEGIN " in str(path):  # which may be secret, so it is not shown
        raise ValueError(f"{name}: is no path; give that of a file with PEM, not what is in it")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise OSError(error.errno, f"{name}: cannot be read: {error.strerror}", str(path)) from None
    if b"-----BEGIN " not in content:  # gRPC would say only that no connection could be made
        raise ValueError(f"{name}: {path} holds no PEM (a text with -----BEGIN lines)")
    return content


class KeyedChannel:
    """A channel all of whose calls show an API key."""

    def __init__(self, channel: Any, api_key: str) -> None:
        """Wraps a channel of grpc or grpc.aio."""
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {api_key}"),)
        self.close = channel.close

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        """Returns what makes unary calls."""
        return KeyedCalls(self._channel.unary_unary(*args, **options), self._metadata)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        """Returns what makes calls with many replies."""
        return KeyedCalls(self._channel.unary_stream(*args, **options), self._metadata)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        """Returns what opens streams."""
        return KeyedCalls(self._channel.stream_stream(*args, **options), self._metadata)


class KeyedCalls:
    """Makes the calls of one method."""

    def __init__(self, calls: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._make = partial(calls, metadata=metadata)
        if hasattr(calls, "future"):
            self.future = partial(calls.future, metadata=metadata)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._make(*args, **options)


def with_api_key(channel: Any, api_key: str | None) -> Any:
    """Returns a channel whose calls show the key; the channel itself where there is none."""
    return channel if api_key is None else KeyedChannel(channel, api_key)


def check_credentials(credentials: grpc.ChannelCredentials | None) -> grpc.ChannelCredentials | None:
    """Returns credentials that a channel can have.

    Raises:
        ValueError: they are something else, for example the text of a certificate.
    """
    if not isinstance(credentials, grpc.ChannelCredentials | None):
        kind = type(credentials).__name__  # and not the value, which may be secret
        raise ValueError(f"credentials: is of the type {kind}; it must be what hiddenstate.tls_credentials() returns")
    return credentials


def check_api_key(api_key: str | None) -> str | None:
    """Returns an API key that can stand in a header.

    Raises:
        ValueError: it has a space, a line break or a letter that is not ASCII, or is no str.
    """
    if not isinstance(api_key, str | None):
        raise ValueError(f"api_key: is of the type {type(api_key).__name__}; it must be a str")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise ValueError("api_key: is no key: one is printable ASCII without spaces around it")
    return api_key
