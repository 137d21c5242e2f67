"""Errors of the server. Only `interceptor.py` turns one into a gRPC status.

ServingError                   has a `code`; its message tells the caller what to change
|- InvalidRequestError         INVALID_ARGUMENT     a field is wrong
|- ModelNotFoundError          NOT_FOUND            no model of that name, version or kind
|- ModelLoadError              FAILED_PRECONDITION  the model cannot be loaded as it lies there
|  '- ModelMemoryError         RESOURCE_EXHAUSTED   there is no room for it beside the others
|- UnsupportedError            UNIMPLEMENTED        the protocol has it, this server does not
|- UnauthenticatedError        UNAUTHENTICATED      the caller shows no API key, or one that is not known
|- PermissionDeniedError       PERMISSION_DENIED    the API key is not good for this
|- SequenceError               FAILED_PRECONDITION  the sequence is not held: begin it again
|- OverloadedError             RESOURCE_EXHAUSTED   the queue is full; later may work
|- ShuttingDownError           UNAVAILABLE          the server drains; another replica may answer
|- DeadlineError               DEADLINE_EXCEEDED    the caller's deadline passed while the request waited
'- ModelFailedError            INTERNAL             the model could not be run
NoRoomError(OSError)           the disk has no room for a model's files; tried again while serving
BundleError(ValueError)        a model folder is not what it says; raised while loading, never on a call
ConfigError(ValueError)        a setting is wrong; raised at start
WorkersError(RuntimeError)     processes that should serve keep ending
"""

from typing import ClassVar, Literal

import grpc

RefusalReason = Literal[
    "queue_full",  # as many tokens wait for the model as may
    "queue_slow",  # the deadline would pass before its turn
    "too_large",  # it alone is more than the queue takes
    "too_many_calls",
    "too_many_streams",
    "too_many_contexts",  # on one stream
    "sequence_memory",
    "tensor_memory",
    "caller_calls",  # more than one caller may make, and so for the next two
    "caller_tokens",
    "caller_streams",
    "draining",
]


class ServingError(Exception):
    """A call failed for a reason that its caller may know."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN


class InvalidRequestError(ServingError):
    """A field of the request is wrong; the message names the field."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class ModelNotFoundError(ServingError):
    """No model of that name, version or kind is served."""

    code = grpc.StatusCode.NOT_FOUND


class ModelLoadError(ServingError):
    """A model was to be loaded and could not be; what was served of it still is."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ModelMemoryError(ModelLoadError):
    """A model needs more memory than is left for models."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnsupportedError(ServingError):
    """The protocol knows what is asked for, this server does not have it."""

    code = grpc.StatusCode.UNIMPLEMENTED


class UnauthenticatedError(ServingError):
    """The caller shows no API key, or one that is not known."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(ServingError):
    """The caller's API key is not good for what is asked."""

    code = grpc.StatusCode.PERMISSION_DENIED


class SequenceError(ServingError):
    """The server does not hold the sequence: it has not begun, has ended, or was let go. It has to begin again."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class OverloadedError(ServingError):
    """The queue is full, or so long that the answer would come too late."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, reason: RefusalReason, retry_after_s: float | None = None) -> None:
        """`retry_after_s` is when the same request may be taken, in seconds from now; None if waiting does not help.

        `reason` is what metrics call it.
        """
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class ShuttingDownError(ServingError):
    """The server is draining and takes no new work."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineError(ServingError):
    """The caller's deadline passed before the request was computed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class ModelFailedError(ServingError):
    """The model could not be run; the log has the details."""

    code = grpc.StatusCode.INTERNAL


class NoRoomError(OSError):
    """The disk has no room for the files of a model."""


class BundleError(ValueError):
    """A model bundle is incomplete, damaged or contradicts itself."""


class ConfigError(ValueError):
    """A setting is wrong; the message names its flag."""


class WorkersError(RuntimeError):
    """Processes that should serve keep ending; the log has the details."""
