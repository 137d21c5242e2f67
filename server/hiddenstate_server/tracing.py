"""OpenTelemetry traces: from the caller's W3C context through the queue to the model's runs.

A call is a span of its caller's trace. Below it are two for each work: `queue`, until its first batch, and `compute`,
from there to its end. A batch belongs to no caller: it is a trace of its own, with a link to each call that is in it.

Nothing here is loaded unless traces are asked for, and then only calls that are sampled cost anything.
"""

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version as release
from typing import Any, Generic, TypeVar

import grpc

from hiddenstate_server.config import Settings, trace_address
from hiddenstate_server.errors import ConfigError, ServingError

try:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise ConfigError(
        f"--trace-endpoint needs {error.name}, which is not installed: pip install 'hiddenstate[tracing]', or in a "
        "checkout '.[tracing]'"
    ) from None

# How long the collector has to answer at start, and for what is left when the server ends.
_ANSWER_S = 5.0
_EXPORT_S = 3.0

Call = Callable[[Any, Any], Awaitable[Any]]
Attributes = dict[str, str | int]
W = TypeVar("W", bound=Any)


class WorkTrace:
    """What a trace needs to know of a work. The event loop makes it, runner threads go on with it."""

    __slots__ = ("batches", "began_ns", "call", "submitted_ns")

    def __init__(self, call: "trace.Span") -> None:
        self.call = call
        self.submitted_ns = time.time_ns()
        self.began_ns = 0
        self.batches = 0


class Tracing:
    """Where spans go. Every method may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._endpoint, self._is_secure = trace_address(settings.trace_endpoint)
        exporter = OTLPSpanExporter(str(self._endpoint), insecure=not self._is_secure, timeout=_EXPORT_S)
        self._processor = BatchSpanProcessor(exporter)
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", "hiddenstate"),
                "service.version": release("hiddenstate"),
            }
        )
        # A caller's trace is recorded if its caller says so; a batch is if a call in it is.
        self.calls = self._tracer(resource, ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)))
        self.batches = self._tracer(resource, ALWAYS_ON)
        self._propagator = TraceContextTextMapPropagator()

    def check(self) -> None:
        """Waits until the collector answers, and takes spans: none are sent to it.

        Raises:
            ConfigError: it does not.
        """
        target = str(self._endpoint)
        make = grpc.secure_channel if self._is_secure else grpc.insecure_channel
        credentials = (grpc.ssl_channel_credentials(),) if self._is_secure else ()
        with make(target, *credentials) as channel:
            try:
                grpc.channel_ready_future(channel).result(_ANSWER_S)
            except grpc.FutureTimeoutError:
                raise ConfigError(
                    f"--trace-endpoint: no OTLP collector answers gRPC at {target} within {_ANSWER_S:g} s; "
                    "start it first, or leave traces off"
                ) from None
            try:
                TraceServiceStub(channel).Export(ExportTraceServiceRequest(), timeout=_ANSWER_S)  # type: ignore[no-untyped-call]
            except grpc.RpcError as error:
                # Whatever else it says may pass, or be for want of the headers that OTEL_EXPORTER_OTLP_HEADERS gives.
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    raise ConfigError(
                        f"--trace-endpoint: what answers gRPC at {target} takes no OTLP traces; name a collector's "
                        "port for OTLP by gRPC, usually 4317"
                    ) from None

    def close(self) -> None:
        """Sends what is left and ends."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def of_call(self, method: str, behavior: Call) -> Call:
        """Returns a method's behavior within a span of its caller's trace."""
        service, _, name = method.lstrip("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

        async def call(request: Any, context: Any) -> Any:
            carrier = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            parent = self._propagator.extract(carrier)
            with self.calls.start_as_current_span(
                f"{service}/{name}",
                context=parent,
                kind=trace.SpanKind.SERVER,
                attributes=attributes,
                record_exception=False,  # its text may quote what the caller sent
                set_status_on_exception=False,
            ) as span:
                try:
                    return await behavior(request, context)
                except BaseException as error:
                    _fail(span, error)
                    raise

        return call

    def begin(self, works: Sequence[Any]) -> None:
        """Notes the span in which works are submitted, where it is sampled."""
        span = trace.get_current_span()
        if span.get_span_context().trace_flags.sampled:
            for work in works:
                work.trace = WorkTrace(span)

    def of_step(self, step: Callable[[Sequence[W]], Sequence[W]], model: str, version: str) -> "TracedStep[W]":
        """Returns a scheduler's step with spans around it."""
        return TracedStep(self, step, model, version)

    def _tracer(self, resource: Resource, sampler: Sampler) -> "trace.Tracer":
        provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        return provider.get_tracer("hiddenstate", release("hiddenstate"))


class TracedStep(Generic[W]):
    """A step whose batches are traced when a work in them is."""

    def __init__(self, tracing: Tracing, step: Callable[[Sequence[W]], Sequence[W]], model: str, version: str) -> None:
        self._tracing = tracing
        self._step = step
        self._attributes: Attributes = {"hiddenstate.model": model, "hiddenstate.version": version}

    def __call__(self, batch: Sequence[W]) -> Sequence[W]:
        """Computes a batch."""
        traced = [work for work in batch if work.trace is not None]
        if not traced:
            return self._step(batch)
        now = time.time_ns()
        for work in traced:
            self._waited(work.trace, now)
        calls = {work.trace.call: None for work in traced}  # a call may have several works in it
        links = [trace.Link(call.get_span_context()) for call in calls]
        attributes: Attributes = {**self._attributes, "hiddenstate.batch.works": len(batch)}
        with self._tracing.batches.start_as_current_span("batch", links=links, attributes=attributes):
            try:
                return self._step(batch)
            finally:
                for work in traced:
                    if work.over:
                        self._computed(work.trace)

    def _waited(self, of: WorkTrace, now: int) -> None:
        of.batches += 1
        if not of.began_ns:
            of.began_ns = now
            self._span("queue", of, of.submitted_ns, now, self._attributes)

    def _computed(self, of: WorkTrace) -> None:
        attributes: Attributes = {**self._attributes, "hiddenstate.batches": of.batches}
        self._span("compute", of, of.began_ns, time.time_ns(), attributes)

    def _span(self, name: str, of: WorkTrace, start_ns: int, end_ns: int, attributes: Attributes) -> None:
        parent = trace.set_span_in_context(of.call)
        self._tracing.calls.start_span(name, context=parent, start_time=start_ns, attributes=attributes).end(end_ns)


def _fail(span: "trace.Span", error: BaseException) -> None:
    code = error.code.name if isinstance(error, ServingError) else "INTERNAL"
    if not isinstance(error, Exception):  # cancelled
        code = "CANCELLED"
    span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
    span.set_status(trace.StatusCode.ERROR, code)
