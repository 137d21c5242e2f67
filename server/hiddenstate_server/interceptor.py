"""The one place where an error becomes a status. Every call of the contract goes through it, and is counted."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from hiddenstate_server.call_metrics import CallMetrics, MethodMetrics
from hiddenstate_server.drain import RunningCalls
from hiddenstate_server.errors import DeadlineError, OverloadedError, RefusalReason, ServingError
from hiddenstate_server.logs import LineBudget, log_fields
from hiddenstate_server.security.access import Access

if TYPE_CHECKING:
    from hiddenstate_server.tracing import Tracing

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # not generic at run time
Behavior = Callable[[Any, Context], Awaitable[Any]]

OUR_METHODS = ("/hiddenstate.", "/inference.")
# Answered also while the server drains: what they are asked is whether it does.
PROBES = frozenset(f"/inference.GRPCInferenceService/{name}" for name in ("ServerLive", "ServerReady", "ModelReady"))
CHANNELZ = "/grpc.channelz."
UNKNOWN_ERROR = "the server failed to answer; its log says why"

# gRPC sends a status message as a header, where 8 KiB is the most that all receivers take, and a character may need
# 12 bytes there. A message may quote what the caller sent, which may be long.
_MAX_MESSAGE = 500

# So many failed calls of a method with the same code are logged in a second.
_FAILED_LINES = 10
# So long after the first that is not, the log tells how many were not, unless a later line has told it.
_LEFT_OUT_S = 1.0

# When a call that was one too many may come again: so long calls take where there are that many.
_RETRY_S = 0.1

_log = logging.getLogger(__name__)


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Returns the status that an error becomes. One that callers may know nothing of is logged with its traceback."""
    if isinstance(error, ServingError):
        return error.code, str(error)[:_MAX_MESSAGE]
    if isinstance(error, DecodeError):
        reason = "the request is not the message that this method takes, or has text that is not UTF-8"
        return grpc.StatusCode.INVALID_ARGUMENT, f"{reason}: {error}"[:_MAX_MESSAGE]
    _log.error("a call failed: %s", type(error).__name__, exc_info=error)
    return grpc.StatusCode.INTERNAL, UNKNOWN_ERROR


def retry_after_ms(error: Exception) -> int:
    """Returns after how many milliseconds a refused request may be taken; 0 if waiting does not help."""
    seconds = error.retry_after_s if isinstance(error, OverloadedError) else None
    return 0 if seconds is None else max(1, round(1000 * seconds))


class CallInterceptor:
    """Guards the methods of the contracts; health, reflection and probes pass by, channelz with a key alone.

    Services are added to it, as they would be to a server, and it adds their methods to the server. (As one of gRPC's
    own interceptors it would be asked for each call again.)
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        running: RunningCalls,
        metrics: CallMetrics,
        log_calls: Literal["none", "failed", "all"],
        max_calls: int,
        max_streams: int,
        access: Access | None = None,
        log_sample: float = 1.0,
        tracing: "Tracing | None" = None,
    ) -> None:
        """`max_calls` and `max_streams` are those at a time; a call that streams no requests is no stream.

        `log_sample` is the share of calls without a failure that are logged, where all are.
        """
        self._server = server
        self._running = running
        self._metrics = metrics
        self._log_calls = log_calls
        self._failed: LineBudget[tuple[str, grpc.StatusCode]] = LineBudget(_FAILED_LINES)
        self._telling: asyncio.TimerHandle | None = None  # runs while failed calls are left out
        self._log_sample = log_sample
        self._tracing = tracing
        self._access = access
        self._calls = _Places(
            max_calls,
            "the server works on {:,} calls, as many as it may (--max-concurrent-calls): send this one again later, or "
            "send many requests over one stream",
            "too_many_calls",
        )
        self._streams = _Places(
            max_streams,
            "the server has {:,} open streams, as many as it may (--max-streams): send many requests over one stream, "
            "or come again later",
            "too_many_streams",
        )

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Does nothing: generated code adds the same methods once more, as registered ones, which are found sooner."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Adds the methods of a service to the server, guarded."""
        guarded = {name: self._guarded(f"/{service_name}/{name}", method_handlers[name]) for name in method_handlers}
        self._server.add_registered_method_handlers(service_name, guarded)

    def close(self) -> None:
        """Logs how many failed calls had no line, once no more calls come."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
            self._tell_left_out(math.inf)

    def _guarded(self, method: str, handler: Handler) -> Handler:
        if method.startswith(OUR_METHODS) and method not in PROBES:
            return self._guard(method, handler)
        if handler.unary_unary is None:
            return handler
        return _forgiving(handler, method, self._access if method.startswith(CHANNELZ) else None)

    def _guard(self, method: str, handler: Handler) -> Handler:
        name = method.rpartition("/")[2]
        is_stream = handler.request_streaming
        series = self._metrics.of_stream(name) if is_stream else self._metrics.of_request(name)
        make: Any  # typed by gRPC for blocking handlers, as are the handler's behaviors
        behavior: Any
        if is_stream:
            make, behavior = grpc.stream_stream_rpc_method_handler, handler.stream_stream
        elif handler.response_streaming:
            make, behavior = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        else:
            make, behavior = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        if self._tracing:
            behavior = self._tracing.of_call(method, behavior)
        # A stream reads in its own behavior, where errors are seen without help.
        deserialize = handler.request_deserializer if is_stream else _lenient(handler.request_deserializer)
        places: AbstractContextManager[None] = self._streams if is_stream else self._calls
        if self._access is not None:
            behavior, places = _within(places, behavior), nullcontext()  # a place is for who may call
            later = None if is_stream else deserialize
            is_long = is_stream or handler.response_streaming
            behavior = self._access.guard(method, behavior, is_long=is_long, deserialize=later)
            deserialize = deserialize if is_stream else None
        guarded: Handler = make(self._answering(series, behavior, places), deserialize, _serialize)
        return guarded

    def _answering(self, series: MethodMetrics, behavior: Behavior, places: AbstractContextManager[None]) -> Behavior:
        running = self._running

        async def call(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            series.begin()
            try:
                with running:
                    if _is_late(context):
                        raise DeadlineError("the deadline passed before the server came to this call")
                    if isinstance(request, DecodeError):
                        raise request
                    with places:
                        return await behavior(request, context)
            except asyncio.CancelledError:
                code = _cancel_code(context)
                raise
            except Exception as error:
                code, message = status_of(error)
                series.failed(error)
                await context.abort(code, message, _hint(error))
            finally:
                self._end(series, code, time.perf_counter() - started, context)

        return call

    def _end(self, series: MethodMetrics, code: grpc.StatusCode, seconds: float, context: Context) -> None:
        series.end(code.name, seconds)
        if code is grpc.StatusCode.OK:
            if self._log_calls == "all" and (self._log_sample == 1 or random.random() < self._log_sample):
                _log_call(series, code, seconds, context)
        elif self._log_calls == "all":
            _log_call(series, code, seconds, context)
        elif self._log_calls == "failed":
            left_out = self._failed.take((series.method, code), time.monotonic())
            if left_out is not None:
                _log_call(series, code, seconds, context, **({"more_not_logged": left_out} if left_out else {}))
            elif self._telling is None:
                self._tell_later()

    def _tell_later(self) -> None:
        self._telling = asyncio.get_running_loop().call_later(_LEFT_OUT_S, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._tell_left_out(time.monotonic())
        if self._failed.has_left_out:  # in a second that is not over
            self._tell_later()

    def _tell_left_out(self, now: float) -> None:
        for (method, code), count in self._failed.left_out(now).items():
            _log.info("calls not logged", extra=log_fields(method=method, code=code.name, more_not_logged=count))


class _Places:
    """How many calls of a kind there may be at a time. Belongs to the event loop.

    Raises:
        OverloadedError: on entering, where there is no place.
    """

    def __init__(self, most: int, message: str, reason: RefusalReason) -> None:
        self._most = most
        self._message = message
        self._reason = reason
        self._taken = 0

    def __enter__(self) -> None:
        if self._taken >= self._most:
            raise OverloadedError(self._message.format(self._taken), retry_after_s=_RETRY_S, reason=self._reason)
        self._taken += 1

    def __exit__(self, *_: object) -> None:
        self._taken -= 1


def _within(places: AbstractContextManager[None], behavior: Behavior) -> Behavior:
    async def call(request: Any, context: Context) -> Any:
        with places:
            return await behavior(request, context)

    return call


def _log_call(series: MethodMetrics, code: grpc.StatusCode, seconds: float, context: Context, **more: int) -> None:
    fields = {"method": series.method, "code": code.name, "duration_ms": round(1000 * seconds, 3)}
    _log.info("call", extra=log_fields(**fields, peer=context.peer(), **more))


def _hint(error: Exception) -> tuple[tuple[str, str], ...]:
    """Returns trailing metadata: when a refused call may come again, in the header that gRPC clients retry by."""
    milliseconds = retry_after_ms(error)
    return (("grpc-retry-pushback-ms", str(milliseconds)),) if milliseconds else ()


def _serialize(response: "bytes | Message") -> bytes:
    """Makes bytes of a message; what is sent most is bytes already (see wire.py)."""
    return response if isinstance(response, bytes) else response.SerializeToString()


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Makes a deserializer that returns its error: gRPC would answer INTERNAL, where the caller is at fault."""
    assert deserialize is not None

    def deserialize_or_error(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return error

    return deserialize_or_error


def _forgiving(handler: Handler, method: str, access: Access | None) -> Handler:
    """Makes a handler that says so where a message cannot be read: gRPC would answer UNKNOWN and log a traceback.

    Where there is an `access`, it is asked first.
    """
    behavior: Any = handler.unary_unary

    async def call(request: Any, context: Context) -> Any:
        try:
            if access is not None:
                access.caller(method, context)
            if isinstance(request, DecodeError):
                raise request
        except (ServingError, DecodeError) as error:
            await context.abort(*status_of(error))
        return await behavior(request, context)

    make: Any = grpc.unary_unary_rpc_method_handler
    forgiving: Handler = make(call, _lenient(handler.request_deserializer), handler.response_serializer)
    return forgiving


def _cancel_code(context: Context) -> grpc.StatusCode:
    return grpc.StatusCode.DEADLINE_EXCEEDED if _is_late(context) else grpc.StatusCode.CANCELLED


def _is_late(context: Context) -> bool:
    remaining: float | None = context.time_remaining()
    return remaining is not None and remaining <= 0
