"""Errors of the client. Each carries the gRPC status code that it stands for; names match the server's.

HiddenstateError              a call failed; `code` is its grpc.StatusCode (this class itself for codes not named below)
|- InvalidRequestError        INVALID_ARGUMENT     a field of the request is wrong; the message names it
|- ModelNotFoundError         NOT_FOUND            the server has no model of that name, version or kind
|- UnauthenticatedError       UNAUTHENTICATED      the server asks for a key, and there is none or it is not known
|- PermissionDeniedError      PERMISSION_DENIED    the key may not be used for this
|- OverloadedError            RESOURCE_EXHAUSTED   the server has no room for the call; `retry_after_s` says when it may
|- MessageTooLargeError       RESOURCE_EXHAUSTED   a request or reply is over the message limit; later will not work
|- UnavailableError           UNAVAILABLE          no server answers, it is shutting down, or the connection broke
|- DeadlineError              DEADLINE_EXCEEDED    no answer within `timeout_s`
|- CallCancelledError         CANCELLED            the client (or its stream) was closed
|- ModelFailedError           INTERNAL             the server could not run the model; its log has the details
|- ModelChangedError          ABORTED              replies came from two versions of a model: start over
'- InvalidReplyError          DATA_LOSS            the reply contradicts itself; client and server may not match
"""

import re
from typing import Any, ClassVar

import grpc

from hiddenstate.v1.usage_pb2 import RequestError


class HiddenstateError(Exception):
    """A call failed. `code` says how; the message says why and what to change."""

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self, message: str, *, code: grpc.StatusCode | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s  # when the server may take the same call, where it says so


class InvalidRequestError(HiddenstateError):
    """A field of the request is wrong; the message names the field."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class ModelNotFoundError(HiddenstateError):
    """The server has no model of that name, version or kind."""

    default_code = grpc.StatusCode.NOT_FOUND


class UnauthenticatedError(HiddenstateError):
    """The server asks for an API key, and the call has none or one that it does not know."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(HiddenstateError):
    """The API key is not for calls of this kind."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class OverloadedError(HiddenstateError):
    """The server has no room for the call. It may after `retry_after_s`; where that is None, the call has to be smaller
    or others have to end."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class MessageTooLargeError(HiddenstateError):
    """A request or a reply is over the message limit of client or server."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnavailableError(HiddenstateError):
    """No server answers at the address, it is shutting down, or the connection broke."""

    default_code = grpc.StatusCode.UNAVAILABLE


class DeadlineError(HiddenstateError):
    """No answer came within `timeout_s`."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class CallCancelledError(HiddenstateError):
    """The client, or the stream that a call rode on, was closed."""

    default_code = grpc.StatusCode.CANCELLED


class ModelFailedError(HiddenstateError):
    """The server could not run the model; its log has the details."""

    default_code = grpc.StatusCode.INTERNAL


class ModelChangedError(HiddenstateError):
    """Replies that belong together came from two versions of a model."""

    default_code = grpc.StatusCode.ABORTED


class InvalidReplyError(HiddenstateError):
    """A reply contradicts itself, for example in the number of its vectors."""

    default_code = grpc.StatusCode.DATA_LOSS


_BY_CODE: dict[grpc.StatusCode, type[HiddenstateError]] = {
    kind.default_code: kind
    for kind in (
        InvalidRequestError,
        ModelNotFoundError,
        UnauthenticatedError,
        PermissionDeniedError,
        OverloadedError,
        UnavailableError,
        DeadlineError,
        CallCancelledError,
        ModelFailedError,
    )
}
# What gRPC says of a stream that ended without a word of its server's.
_BROKEN = (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
BROKEN_WHILE_WRITING = "Internal error from Core"  # grpc.aio's, with the code INTERNAL
_SHUTTING_DOWN = "the server is shutting down"  # as a server that drains begins
# Of gRPC, whose implementations differ a little.
_TOO_LARGE = re.compile(
    r"(?P<way>sent|send|received) message larger than max \((?P<size>\d+) vs\. (?P<most>\d+)\)", re.IGNORECASE
)
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def call_error(error: grpc.RpcError, address: str) -> HiddenstateError:
    """Turns the error of a failed call to `address` into one of this module's."""
    return status_error(error.code(), error.details() or "", address, _pushback_s(error))


def request_error(error: RequestError, address: str) -> HiddenstateError:
    """Turns what became of one request of a stream into one of this module's."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    return status_error(code, error.message, address, error.retry_after_ms / 1000 or None)


def stream_error(error: grpc.RpcError, address: str) -> HiddenstateError:
    """Turns the error that ended a stream into one of this module's; a stream that just broke is UnavailableError."""
    if error.code() in _BROKEN or error.details() == BROKEN_WHILE_WRITING:
        return UnavailableError(f"the server at {address} broke off the stream: {error.details() or 'no reason given'}")
    return call_error(error, address)


def status_error(
    code: grpc.StatusCode, details: str, address: str, retry_after_s: float | None = None
) -> HiddenstateError:
    """Makes the error for a status that came from (or for want of) the server at `address`."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(_unavailable(details, address))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(f"no answer from {address} in time ({details}); allow more with timeout_s")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return HiddenstateError(f"{address} is no hiddenstate server, or an older one: {details}", code=code)
    # gRPC answers an oversized message with the code of an overload; only its words tell them apart.
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (too_large := _TOO_LARGE.search(details)):
        return MessageTooLargeError(_too_large(too_large, of_client="CLIENT:" in details))
    kind = _BY_CODE.get(code, HiddenstateError)
    return kind(details or f"{address} answered {code.name} without a reason", code=code, retry_after_s=retry_after_s)


def _too_large(found: re.Match[str], *, of_client: bool) -> str:
    """Says whose limit was met, and by what."""
    is_request = (found["way"].lower() != "received") == of_client
    what, remedy = ("request", "send less") if is_request else ("reply", "ask for less")
    whose, limit = ("client's", "max_message_bytes") if of_client else ("server's", "--max-message-bytes")
    return (
        f"a {what} of {int(found['size']):,} bytes is over the {whose} limit of {int(found['most']):,}; "
        f"{remedy} at once, or raise the {whose} {limit}"
    )


def _pushback_s(error: grpc.RpcError) -> float | None:
    """Returns the seconds that a server wants to be left alone for; None where it says nothing, or never to return."""
    metadata: Any = error.trailing_metadata()  # None, or pairs, which the stubs do not say
    for key, value in metadata or ():
        if key == "grpc-retry-pushback-ms" and str(value).isdecimal():
            return int(value) / 1000
    return None


def _unavailable(details: str, address: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            f"the certificate of the server at {address} is not one to trust: {_found(details)}; "
            "name its authority: ca= of tls_credentials, or --tls-ca"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return f"the server at {address} does not speak TLS; leave out credentials=, or --tls and --tls-ca"
    if "failed to connect" in details or "resolving" in details or "DNS" in details:
        reason = details.rsplit(": ", 1)[-1].rstrip("]")
        if reason == "Socket closed":  # a port that speaks TLS, or no gRPC at all
            return f"what listens at {address} hung up; if it speaks TLS, so must the client: credentials=, or --tls-ca"
        if "HTTP/2" in reason:
            return f"what listens at {address} does not speak gRPC ({reason}); name the port that the server prints"
        return f"no server answers at {address} ({reason}); start one with `make serve` or `hiddenstate serve`"
    if details.startswith(_SHUTTING_DOWN):  # the server's own words, which say what to do
        return details.replace("the server", f"the server at {address}", 1)
    return f"the server at {address} is not available: {details or 'the connection broke'}; try again"


def _found(details: str) -> str:
    """Returns what TLS found wrong, from the words of gRPC."""
    found = details.rsplit("CERTIFICATE_VERIFY_FAILED", 1)[-1].strip(" :]").removesuffix(": OK")
    return found or "CERTIFICATE_VERIFY_FAILED"
