"""What a model answered to a ModelInferResponse."""

from typing import Any, Final

from numpy.typing import NDArray

from hiddenstate_server.inference.classification import classify
from hiddenstate_server.inference.codec import encode_raw
from hiddenstate_server.inference.infer_request import InferCall
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from hiddenstate_server.inference.tensors import Datatype, TensorModel, Tensors

FINAL_RESPONSE: Final = "triton_final_response"


def fill_answer(
    response: ModelInferResponse, request: ModelInferRequest, call: InferCall, answer: Tensors, model: TensorModel
) -> None:
    """Writes an answer, its tensors in the order of `call.outputs`."""
    response.model_name, response.model_version, response.id = model.name, model.version, request.id
    datatypes = {spec.name: spec.datatype for spec in model.outputs}
    for name in call.outputs:
        if name in call.classes:
            batched = model.max_batch_size > 0
            classes = classify(answer[name], datatypes[name], call.classes[name], batched=batched)
            _add(response, name, "BYTES", classes)
        else:
            _add(response, name, datatypes[name], answer[name])


def fill_failure(response: ModelInferResponse, request: ModelInferRequest) -> None:
    """Writes which request failed."""
    response.model_name, response.model_version, response.id = request.model_name, request.model_version, request.id


def mark_final(response: ModelInferResponse) -> None:
    """Says that no more replies to the request follow."""
    response.parameters[FINAL_RESPONSE].bool_param = True


def _add(response: ModelInferResponse, name: str, datatype: Datatype, array: NDArray[Any]) -> None:
    response.outputs.add(name=name, datatype=datatype, shape=array.shape)
    response.raw_output_contents.append(encode_raw(array, datatype))
