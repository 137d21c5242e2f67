"""gRPC's own view of its connections and calls, `grpc.channelz.v1`, for those who look for a fault in them."""

from typing import Final

import grpc

from hiddenstate_server.errors import ConfigError

SERVICE: Final = "grpc.channelz.v1.Channelz"


def add_channelz(server: grpc.aio.Server) -> None:
    """Serves it.

    Raises:
        ConfigError: what it needs is not installed.
    """
    try:
        from grpc_channelz.v1 import channelz
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--channelz needs {error.name}, which is not installed: pip install 'hiddenstate[channelz]'"
        ) from None
    channelz.add_channelz_servicer(server)
