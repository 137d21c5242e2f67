"""The server as a whole: puts the parts together, and takes them apart in order."""

import asyncio
import dataclasses
import logging
import os
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from hiddenstate.v1 import language_model_pb2, model_pb2, sentence_encoder_pb2
from hiddenstate.v1.language_model_pb2_grpc import add_LanguageModelServiceServicer_to_server
from hiddenstate.v1.model_pb2_grpc import add_ModelServiceServicer_to_server
from hiddenstate.v1.sentence_encoder_pb2_grpc import add_SentenceEncoderServiceServicer_to_server
from hiddenstate_server.channelz import SERVICE as CHANNELZ_SERVICE
from hiddenstate_server.channelz import add_channelz
from hiddenstate_server.config import Address, Settings, flag
from hiddenstate_server.drain import RunningCalls
from hiddenstate_server.engine_build import engine
from hiddenstate_server.errors import ConfigError, ModelFailedError
from hiddenstate_server.exposition import Exposition
from hiddenstate_server.health import HEALTH_SERVICE, ModelHealth, add_health
from hiddenstate_server.inference import open_inference_pb2
from hiddenstate_server.inference.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from hiddenstate_server.inference.service import InferenceService
from hiddenstate_server.inference.tensor_models import TensorModels
from hiddenstate_server.inference.unsupported import add_unsupported
from hiddenstate_server.interceptor import CallInterceptor
from hiddenstate_server.language_model_service import LanguageModelService
from hiddenstate_server.listening import check_can_listen
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.model_service import ModelService
from hiddenstate_server.repository import Repository
from hiddenstate_server.repository.source import open_source
from hiddenstate_server.repository.watching import watch
from hiddenstate_server.security.access import Access
from hiddenstate_server.security.certificates import CertificateFiles, Certificates, http_context, server_credentials
from hiddenstate_server.security.files import WatchedFiles
from hiddenstate_server.security.files import watch as watch_files
from hiddenstate_server.security.ledger import Ledger
from hiddenstate_server.sentence_encoder_service import SentenceEncoderService
from hiddenstate_server.watchdog import Watchdog

if TYPE_CHECKING:
    from hiddenstate_server.tracing import Tracing

SERVICES = (
    *(service.full_name for service in language_model_pb2.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in sentence_encoder_pb2.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in model_pb2.DESCRIPTOR.services_by_name.values()),
    *(service.full_name for service in open_inference_pb2.DESCRIPTOR.services_by_name.values()),
)

# A reply that is computed still has to be sent: gRPC gets this long for it when the server stops.
_SEND_S = 1.0

_log = logging.getLogger(__name__)


# So long a runner thread that comes back from a model run waits for the event loop at most: Python's own 5 ms are as
# long as a batch takes.
_SWITCH_S = 0.001


class Server:
    """A server that serves. Made by `start`; belongs to one event loop."""

    def __init__(self, settings: Settings, ledger: Ledger | None = None) -> None:
        self.metrics = Metrics()
        self.running = RunningCalls()
        self.address = Address.parse(settings.listen)
        self.metrics_address: Address | None = None
        self.repository: Repository
        self._grace_s: float | None = _SEND_S  # None once calls have been cut off: their time is over
        self._settings = settings
        self._certificates: WatchedFiles[Certificates] | None = None
        self._shares_port = settings.workers > 1
        self._parts = ExitStack()  # what the calls need, closed after them, last to first
        self._access = Access.of(settings, ledger)
        self.metrics.tracing = _tracing(settings)
        if self.metrics.tracing:
            self._parts.callback(self.metrics.tracing.close)
        self._rpc = grpc.aio.server(options=server_options(settings))
        self._methods: Any = CallInterceptor(  # what takes services is typed as a server
            self._rpc,
            running=self.running,
            metrics=self.metrics.calls,
            log_calls=settings.log_calls,
            log_sample=settings.log_sample,
            tracing=self.metrics.tracing,
            max_calls=settings.max_concurrent_calls,
            max_streams=settings.max_streams,
            access=self._access,
        )
        self._parts.callback(self._methods.close)

    @classmethod
    async def start(cls, settings: Settings, ledger: Ledger | None = None) -> "Server":
        """Loads the models and begins to serve; what callers use is counted in the ledger, if there is one for several.

        Raises:
            BundleError: a model is damaged.
            ConfigError: a setting does not fit this machine or these models.
        """
        sys.setswitchinterval(_SWITCH_S)
        server = cls(settings, ledger)
        try:
            await server._start()
        except BaseException:
            await server.stop()
            raise
        return server

    async def drain(self) -> bool:
        """Refuses new calls, lets the running ones finish, and tells whether all did in time."""
        _log.info("draining: %d calls run", self.running.count)
        await self._health.enter_graceful_shutdown()
        timeout_s = self._settings.drain_timeout_s
        started = time.monotonic()
        if await self.running.drain(timeout_s):
            left_s = max(0.0, started + timeout_s - time.monotonic())
            if await self.repository.drain(left_s):
                _log.info("drained")
                return True
        _log.warning("not drained in %g s: %d calls are cut off", timeout_s, self.running.count)
        if self.running.count:
            self._grace_s = None
        return False

    async def stop(self) -> None:
        """Cuts off what still runs, and gives ports and threads back."""
        await self._rpc.stop(self._grace_s)
        self._parts.close()

    async def _start(self) -> None:
        self._read_certificates()
        self._watch_keys()
        # Ports first: a port in use is told at once, not after the models have been loaded. But a worker that listened
        # before it serves would be given calls that others could answer.
        if not self._shares_port:
            self.address = self._bind()
        self._expose()
        if self.metrics.tracing:
            await asyncio.to_thread(self.metrics.tracing.check)
        loop = asyncio.get_running_loop()
        self.metrics.watch_loop(loop)
        self.repository = await asyncio.to_thread(self._open_repository, loop)
        self._parts.callback(self.repository.close)
        _log.info("the engine runs %s", engine())
        self._watch_state_keys()
        await self._add_services()
        if self._shares_port:
            self.address = self._bind()
        await self._rpc.start()
        self._watch()
        watchdog = Watchdog(self.repository.schedulers, self._settings)
        guarding = asyncio.create_task(self._guard(watchdog))
        self._parts.callback(guarding.cancel)

    async def _guard(self, watchdog: Watchdog) -> None:
        """Ends the process where it can serve no longer: its supervisor starts another, which can."""
        trouble = await watchdog.trouble()
        _log.critical("%s: ending with exit code 1 for a supervisor to start another process", trouble.reason)
        if trouble.hung:
            await self._health.enter_graceful_shutdown()
            self.running.refuse()
            for scheduler in trouble.hung:
                scheduler.give_up(ModelFailedError("the model did not end its work in time; the server starts again"))
            await asyncio.sleep(_SEND_S)
        else:
            await self.drain()
            await self._rpc.stop(self._grace_s)
        end_process(1)

    def _open_repository(self, loop: asyncio.AbstractEventLoop) -> Repository:
        settings = self._settings
        source = open_source(settings.models, settings.models_cache)
        engine = dataclasses.replace(settings.engine, repository_calls=self._repository_calls())
        may_be_filled = settings.watch_models != "off" or engine.repository_calls == "on"
        return Repository.open(source, settings=engine, metrics=self.metrics, loop=loop, may_be_empty=may_be_filled)

    def _repository_calls(self) -> Literal["on", "off"]:
        wanted = self._settings.engine.repository_calls
        if self._shares_port:  # a call reaches one process, and the others would go on otherwise
            return "off"
        if wanted == "auto":  # else a stranger could unload every model
            return "on" if self.address.is_loopback or self._access is not None else "off"
        return wanted

    def _watch(self) -> None:
        how, interval_s = self._settings.watch_models, self._settings.poll_interval_s
        watching = asyncio.create_task(watch(self.repository, how=how, interval_s=interval_s))
        self._parts.callback(watching.cancel)

    def _read_certificates(self) -> None:
        files = CertificateFiles.of(self._settings)
        if files is None:
            return
        self._certificates = files.watched()
        watching = asyncio.create_task(watch_files(self._certificates))
        self._parts.callback(watching.cancel)

    def _watch_keys(self) -> None:
        if self._access is not None and self._access.keys is not None:
            watching = asyncio.create_task(watch_files(self._access.keys, self._access.refresh))
            self._parts.callback(watching.cancel)

    def _watch_state_keys(self) -> None:
        if self.repository.state_keys is not None:
            watching = asyncio.create_task(watch_files(self.repository.state_keys))
            self._parts.callback(watching.cancel)

    def _add_port(self) -> int:
        if self._certificates is None:
            return self._rpc.add_insecure_port(str(self.address))
        return self._rpc.add_secure_port(str(self.address), server_credentials(self._certificates, self._settings))

    def _bind(self) -> Address:
        if not self._shares_port:  # the supervisor holds it
            check_can_listen("listen", self.address)
        try:
            return Address(self.address.host, self._add_port())
        except RuntimeError as error:
            raise ConfigError(f"{flag('listen')} {self.address}: cannot listen there: {error}") from None

    def _expose(self) -> None:
        if self._settings.metrics == "off":
            return
        certificates = self._certificates if self._settings.metrics_tls else None
        exposition = Exposition(
            Address.parse(self._settings.metrics), self.metrics.registry, http_context(certificates)
        )
        self._parts.callback(exposition.close)
        self.metrics_address = exposition.address

    async def _add_services(self) -> None:
        repository, settings, running, calls = self.repository, self._settings, self.running, self.metrics.calls
        methods = self._methods
        language_models = LanguageModelService(repository, settings=settings, running=running, metrics=calls)
        add_LanguageModelServiceServicer_to_server(language_models, methods)
        encoders = SentenceEncoderService(repository, settings=settings, running=running, metrics=calls)
        add_SentenceEncoderServiceServicer_to_server(encoders, methods)
        add_ModelServiceServicer_to_server(ModelService(repository), methods)
        models = TensorModels(repository, settings.engine, self.metrics.sequences)
        inference = InferenceService(repository, models, settings=settings, running=running, metrics=calls)
        add_GRPCInferenceServiceServicer_to_server(inference, methods)
        add_unsupported(methods)
        self._health = await add_health(methods, SERVICES, repository.names())
        repository.listen(ModelHealth(self._health, () if repository.names() else SERVICES))
        others = [HEALTH_SERVICE, reflection.SERVICE_NAME]
        if settings.channelz == "on":
            add_channelz(methods)
            others.append(CHANNELZ_SERVICE)
        if settings.reflection == "on":
            servicer = reflection.aio.ReflectionServicer((*SERVICES, *others))
            add_ServerReflectionServicer_to_server(servicer, methods)  # type: ignore[no-untyped-call]


def end_process(code: int) -> None:
    """Ends this process as it stands: a regular exit would wait for threads, and one of them hangs."""
    os._exit(code)


def _tracing(settings: Settings) -> "Tracing | None":
    if settings.trace_endpoint == "off":
        return None
    from hiddenstate_server.tracing import Tracing  # an extra, and half a second

    return Tracing(settings)


def server_options(settings: Settings) -> list[tuple[str, int]]:
    """Returns the options of the gRPC server."""
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # Else a second server on the same port would start, and take half of the calls: only workers may.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.enable_channelz", int(settings.channelz == "on")),
        # Clients may ping every 10 s. gRPC's default is 5 min, and it ends the connection of those who ping more.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Calls that have come and not yet been looked at wait within gRPC, unseen and without a bound. When
        # the event loop cannot keep up, those that come on top are turned away there, before they cost it anything.
        # Between the two limits it is left to chance, and what waits under overload is near the second: it is the next.
        ("grpc.server.max_pending_requests", settings.max_pending_calls),
        ("grpc.server.max_pending_requests_hard_limit", settings.max_pending_calls + 1),
        # A caller that vanished without a word must not hold its streams for two hours.
        ("grpc.keepalive_time_ms", int(1000 * settings.keepalive_s)),
        ("grpc.keepalive_timeout_ms", int(1000 * settings.keepalive_timeout_s)),
        # This one counts in gRPC core 1.85, and is a minute by default.
        ("grpc.http2.ping_timeout_ms", int(1000 * settings.keepalive_timeout_s)),
    ]
