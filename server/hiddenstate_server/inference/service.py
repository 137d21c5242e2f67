"""inference.GRPCInferenceService: the Open Inference Protocol, and those of Triton's calls that have a meaning here."""

from collections.abc import AsyncIterator, Mapping

from hiddenstate_server.call_metrics import CallMetrics
from hiddenstate_server.config import Settings
from hiddenstate_server.drain import RunningCalls
from hiddenstate_server.errors import InvalidRequestError, ServingError, UnsupportedError
from hiddenstate_server.inference import open_inference_pb2 as messages
from hiddenstate_server.inference.guarded import GuardedInferences, StreamedInferences
from hiddenstate_server.inference.inferences import Inferences
from hiddenstate_server.inference.metadata import model_metadata, server_metadata
from hiddenstate_server.inference.model_config import model_config
from hiddenstate_server.inference.model_statistics import model_statistics
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from hiddenstate_server.inference.stream import InferStream
from hiddenstate_server.inference.tensor_models import TensorModels
from hiddenstate_server.inference.tensors import TensorModel
from hiddenstate_server.interceptor import Context
from hiddenstate_server.messages import read_deadline
from hiddenstate_server.repository import Repository
from hiddenstate_server.security.access import CALLER

# What RepositoryModelUnload may say: no model depends on another, so it changes nothing.
_UNLOAD_DEPENDENTS = "unload_dependents"


class InferenceService(GRPCInferenceServiceServicer):
    """Its methods raise errors.ServingError, which the interceptor makes a status."""

    def __init__(
        self,
        repository: Repository,
        models: TensorModels,
        *,
        settings: Settings,
        running: RunningCalls,
        metrics: CallMetrics,
    ) -> None:
        self._repository = repository
        self._models = models
        self._inferences = Inferences(models) if settings.keys_file is None else GuardedInferences(models)
        self._settings = settings
        self._running = running
        self._streamed = metrics.of_request("ModelStreamInfer")

    async def ServerLive(  # noqa: N802
        self, request: messages.ServerLiveRequest, context: Context
    ) -> messages.ServerLiveResponse:
        return messages.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: messages.ServerReadyRequest, context: Context
    ) -> messages.ServerReadyResponse:
        return messages.ServerReadyResponse(ready=not self._running.draining and bool(self._repository.models()))

    async def ModelReady(  # noqa: N802
        self, request: messages.ModelReadyRequest, context: Context
    ) -> messages.ModelReadyResponse:
        return messages.ModelReadyResponse(
            ready=not self._running.draining and self._has(request.name, request.version)
        )

    async def ServerMetadata(  # noqa: N802
        self, request: messages.ServerMetadataRequest, context: Context
    ) -> messages.ServerMetadataResponse:
        return server_metadata()

    async def ModelMetadata(  # noqa: N802
        self, request: messages.ModelMetadataRequest, context: Context
    ) -> messages.ModelMetadataResponse:
        model = self._find(request.name, request.version)
        versions = [each.version for each in self._repository.models() if each.name == model.name]
        return model_metadata(model, [model.version] if request.version else versions)

    async def ModelInfer(  # noqa: N802
        self, request: messages.ModelInferRequest, context: Context
    ) -> messages.ModelInferResponse:
        response = messages.ModelInferResponse()
        await self._inferences.infer(request, response, read_deadline(context))
        return response

    async def ModelStreamInfer(  # type: ignore[override]  # noqa: N802 - writes to the context instead of yielding
        self, request_iterator: AsyncIterator[messages.ModelInferRequest], context: Context
    ) -> None:
        await InferStream(
            context,
            self._inferences if CALLER.get() is None else StreamedInferences(self._models),
            running=self._running,
            series=self._streamed,
            max_pending=self._settings.max_stream_pending,
        ).run()

    async def ModelConfig(  # noqa: N802
        self, request: messages.ModelConfigRequest, context: Context
    ) -> messages.ModelConfigResponse:
        return messages.ModelConfigResponse(config=model_config(self._find(request.name, request.version)))

    async def ModelStatistics(  # noqa: N802
        self, request: messages.ModelStatisticsRequest, context: Context
    ) -> messages.ModelStatisticsResponse:
        models = self._models.find_all(request.name, request.version)
        return messages.ModelStatisticsResponse(model_stats=[model_statistics(model) for model in models])

    async def RepositoryIndex(  # noqa: N802
        self, request: messages.RepositoryIndexRequest, context: Context
    ) -> messages.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        response = messages.RepositoryIndexResponse()
        for entry in self._repository.index():
            if entry.state == "READY" or not request.ready:
                response.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return response

    async def RepositoryModelLoad(  # noqa: N802
        self, request: messages.RepositoryModelLoadRequest, context: Context
    ) -> messages.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        if parameter := next(iter(sorted(request.parameters)), None):
            raise UnsupportedError(
                f"parameters: {parameter[:64]!r} is set, but models and their configuration are read from the "
                "repository alone; put the files there and load without parameters"
            )
        await self._repository.load(_name(request.model_name, "model_name"))
        return messages.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: messages.RepositoryModelUnloadRequest, context: Context
    ) -> messages.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        _check_unload(request.parameters)
        await self._repository.unload(_name(request.model_name, "model_name"))
        return messages.RepositoryModelUnloadResponse()

    def _find(self, name: str, version: str) -> TensorModel:
        return self._models.find(_name(name), version)

    def _has(self, name: str, version: str) -> bool:
        try:
            self._find(name, version)
        except ServingError:
            return False
        return True


def _name(name: str, field: str = "name") -> str:
    if not name:
        raise InvalidRequestError(f"{field}: is empty; RepositoryIndex tells the names")
    return name


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequestError(f"repository_name: is {name[:64]!r}; there is one repository, leave it empty")


def _check_unload(parameters: Mapping[str, messages.ModelRepositoryParameter]) -> None:
    for name, parameter in parameters.items():
        if name != _UNLOAD_DEPENDENTS or parameter.WhichOneof("parameter_choice") != "bool_param":
            raise InvalidRequestError(f"parameters: {name[:64]!r} is not known; only {_UNLOAD_DEPENDENTS} (bool) is")
