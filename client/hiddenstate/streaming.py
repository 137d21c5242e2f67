"""What streams for threads and streams for tasks share: the shape of their messages, and how they end."""

import copy
from collections.abc import Collection
from typing import Literal, Protocol, TypeVar

import grpc

from hiddenstate.connection import Connection
from hiddenstate.errors import (
    BROKEN_WHILE_WRITING,
    CallCancelledError,
    DeadlineError,
    HiddenstateError,
    UnavailableError,
    stream_error,
)
from hiddenstate.v1.usage_pb2 import RequestError

ResponseT_co = TypeVar("ResponseT_co", covariant=True)


class StreamedReply(Protocol[ResponseT_co]):
    """The reply to one request: a response or an error."""

    request_id: int

    @property
    def response(self) -> ResponseT_co: ...
    @property
    def error(self) -> RequestError: ...
    def HasField(self, field_name: Literal["error"], /) -> bool: ...  # noqa: N802 - protobuf's name


class ReplyMessage(Protocol[ResponseT_co]):
    """Replies that came together."""

    @property
    def responses(self) -> Collection[StreamedReply[ResponseT_co]]: ...


class StreamEndedError(Exception):
    """A stream ended before the reply came: `error` is what a caller is told who does not send the request again."""

    def __init__(self, error: HiddenstateError, *, worked: bool, is_unclear: bool = False) -> None:
        """Makes one.

        Args:
            error: Why it ended.
            worked: Whether replies had come over it before.
            is_unclear: Whether the server may have said why, and it was lost.
        """
        super().__init__(str(error))
        self.error = error
        self.code = error.code
        self.worked = worked
        self.is_unclear = is_unclear

    def copy(self) -> "StreamEndedError":
        """Returns another one for another caller: a raised error gathers the traceback of who raised it."""
        return StreamEndedError(copy.copy(self.error), worked=self.worked, is_unclear=self.is_unclear)


def ending(cause: grpc.RpcError | None, connection: Connection, *, closing: bool, worked: bool) -> StreamEndedError:
    """Says why nothing more will come: what went wrong, unless it was this side that wanted the end."""
    if connection.closed:
        error: HiddenstateError = CallCancelledError("the client was closed")
    elif closing:
        error = CallCancelledError("the stream was closed")
    elif cause is None:
        error = UnavailableError(f"the server at {connection.address} ended the stream; open another")
    else:
        error = stream_error(cause, connection.address)
    is_unclear = cause is not None and cause.details() == BROKEN_WHILE_WRITING
    return StreamEndedError(error, worked=worked, is_unclear=is_unclear)


def no_reply(connection: Connection) -> DeadlineError:
    """Returns the error of a call whose time is up."""
    return DeadlineError(f"no reply from {connection.address} in time; allow more with timeout_s")
