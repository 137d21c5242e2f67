"""Calls of Triton's service that this server does not have: each is refused with what to do instead.

They are no part of open_inference.proto, so that reflection tells of what can be called and nothing else.
"""

from collections.abc import Mapping
from typing import Any, Final

import grpc

from hiddenstate_server.errors import UnsupportedError
from hiddenstate_server.inference.open_inference_pb2 import DESCRIPTOR
from hiddenstate_server.interceptor import Context

_SERVICE: Final = DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_SHARED_MEMORY: Final = "this server has no shared memory; send tensors in the message"
_INSTEAD: Final[Mapping[str, str]] = {
    **{
        f"{kind}SharedMemory{verb}": _SHARED_MEMORY
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    },
    "TraceSetting": "this server has no trace settings; --log-calls and /metrics tell what calls do",
    "LogSettings": "log settings are options of `hiddenstate serve` (--log-level, --log-calls); restart it with others",
}


def add_unsupported(server: grpc.aio.Server) -> None:
    """Has a server refuse these calls in words."""
    handlers: dict[str, Any] = {
        method: grpc.unary_unary_rpc_method_handler(_refusing(method, instead), request_deserializer=_unread)
        for method, instead in _INSTEAD.items()
    }
    server.add_registered_method_handlers(_SERVICE, handlers)


def _refusing(method: str, instead: str) -> Any:
    async def refuse(request: bytes, context: Context) -> bytes:
        raise UnsupportedError(f"{method}: {instead}")

    return refuse


def _unread(request: bytes) -> bytes:
    return request
