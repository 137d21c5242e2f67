"""Inferences for callers who have to show keys: what a key is good for depends on the model's kind."""

from hiddenstate_server.inference.inferences import Inferences
from hiddenstate_server.inference.language_model_tensors import LanguageModelTensors
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from hiddenstate_server.inference.sentence_encoder_tensors import SentenceEncoderTensors
from hiddenstate_server.inference.tensors import SequenceStep, TensorModel
from hiddenstate_server.security.access import CALLER

_ANY = frozenset({"predict", "encode"})


class GuardedInferences(Inferences):
    """Checks that the caller's key is good for the model."""

    def _find(self, request: ModelInferRequest, step: SequenceStep | None) -> TensorModel:
        model = super()._find(request, step)
        if caller := CALLER.get():
            caller.check_scope(_scope(model), f"the model {model.name}")
        return model


class StreamedInferences(GuardedInferences):
    """Counts each request of a stream like a call."""

    async def infer(self, request: ModelInferRequest, response: ModelInferResponse, deadline: float) -> None:
        """Runs a request and fills its response, as Inferences does.

        Raises:
            ServingError: see errors.py.
        """
        if caller := CALLER.get():
            caller.use.begin_call()
        await super().infer(request, response, deadline)


def _scope(model: TensorModel) -> frozenset[str]:
    if isinstance(model, LanguageModelTensors):
        return frozenset({"predict"})
    return frozenset({"encode"}) if isinstance(model, SentenceEncoderTensors) else _ANY
