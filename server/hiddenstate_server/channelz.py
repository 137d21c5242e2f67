"""gRPC's own view of its connections and calls, `grpc.channelz.v1`, for those who look for a fault in them."""

from typing import Any, Final

from hiddenstate_server.errors import ConfigError

SERVICE: Final = "grpc.channelz.v1.Channelz"


def add_channelz(server: Any) -> None:
    """Serves it.

    Raises:
        ConfigError: what it needs is not installed.
    """
    try:
        from grpc_channelz.v1 import channelz
        from grpc_channelz.v1.channelz_pb2_grpc import add_ChannelzServicer_to_server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--channelz needs {error.name}, which is not installed: pip install 'hiddenstate[channelz]', or in a "
            "checkout '.[channelz]'"
        ) from None
    add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), server)
