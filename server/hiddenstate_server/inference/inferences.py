"""Runs what ModelInfer and ModelStreamInfer ask for."""

import time

from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.inference.infer_request import read_call
from hiddenstate_server.inference.infer_response import fill_answer
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from hiddenstate_server.inference.parameters import read_parameters
from hiddenstate_server.inference.tensor_models import TensorModels
from hiddenstate_server.inference.tensors import SequenceStep, TensorModel


class Inferences:
    """Runs requests on the models of a repository. Belongs to the event loop."""

    def __init__(self, models: TensorModels) -> None:
        self._models = models

    async def infer(self, request: ModelInferRequest, response: ModelInferResponse, deadline: float) -> None:
        """Runs a request and fills its response. `deadline` is a time of time.monotonic().

        Raises:
            ServingError: see errors.py.
        """
        if not request.model_name:
            raise InvalidRequestError("model_name: is empty; RepositoryIndex tells the names")
        parameters = read_parameters(request.parameters)
        model = self._find(request, parameters.sequence)
        call = read_call(request, model)
        answer = await model.infer(
            call.inputs,
            outputs=call.outputs,
            deadline=min(deadline, time.monotonic() + parameters.timeout_s),
            sequence=parameters.sequence if model.stateful else None,
            is_bulk=parameters.is_bulk,
        )
        fill_answer(response, request, call, answer, model)

    def _find(self, request: ModelInferRequest, step: SequenceStep | None) -> TensorModel:
        model = self._models.find(request.model_name, request.model_version)
        if model.stateful and step and not step.start:
            return self._models.find_going_on(model, step.id)
        return model
