"""hiddenstate.v1.ModelService: which models there are."""

from hiddenstate.v1.model_pb2 import GetModelRequest, GetModelResponse, ListModelsRequest, ListModelsResponse, Model
from hiddenstate.v1.model_pb2_grpc import ModelServiceServicer
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.interceptor import Context
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.messages import fill_model, fill_tensor_model
from hiddenstate_server.repository import Repository, Served
from hiddenstate_server.sentence_encoder import SentenceEncoder


class ModelService(ModelServiceServicer):
    """Its methods raise errors.ServingError, which the interceptor makes a status."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:  # noqa: N802
        response = ListModelsResponse()
        for model in self._repository.models():
            _fill(response.models.add(), model)
        return response

    async def GetModel(self, request: GetModelRequest, context: Context) -> GetModelResponse:  # noqa: N802
        if not request.name:
            raise InvalidRequestError("name: is empty; ListModels tells the names")
        response = GetModelResponse()
        _fill(response.model, self._repository.find(request.name, request.version))
        return response


def _fill(message: Model, model: Served) -> None:
    if isinstance(model, LanguageModel | SentenceEncoder):
        fill_model(message, model)
    else:
        fill_tensor_model(message, model)
