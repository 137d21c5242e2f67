"""A ModelInferRequest to what a model is run with."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from hiddenstate_server.errors import InvalidRequestError, UnsupportedError
from hiddenstate_server.inference.codec import check_shape, decode_contents, decode_raw
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest
from hiddenstate_server.inference.tensors import DTYPES, Datatype, TensorModel, Tensors

_SHARED_MEMORY: Final = "shared_memory_"
_CLASSIFICATION: Final = "classification"

Input = ModelInferRequest.InferInputTensor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InferCall:
    """A request that has been read."""

    inputs: Tensors
    outputs: Sequence[str]  # in the order in which they are answered
    classes: Mapping[str, int]  # outputs of which only so many largest values are wanted


def read_call(request: ModelInferRequest, model: TensorModel) -> InferCall:
    """Reads a request to a model. Whether all inputs are there and of the right shapes is for the model to say.

    Raises:
        InvalidRequestError: datatypes or sizes are wrong, an input is sent twice, or an output is unknown.
        UnsupportedError: it names shared memory.
    """
    outputs = _outputs(request, model)
    return InferCall(
        inputs=_inputs(request, {spec.name: spec.datatype for spec in model.inputs}),
        outputs=tuple(outputs),
        classes={name: count for name, count in outputs.items() if count},
    )


def _inputs(request: ModelInferRequest, datatypes: Mapping[str, Datatype]) -> Tensors:
    _check_contents(request)
    raws: Sequence[bytes | None] = request.raw_input_contents or [None] * len(request.inputs)
    tensors: Tensors = {}
    for tensor, raw in zip(request.inputs, raws, strict=True):
        field = f"input {tensor.name[:64]!r}"
        if tensor.name in tensors:
            raise InvalidRequestError(f"{field}: is sent twice")
        _refuse_shared_memory(tensor.parameters, field)
        tensors[tensor.name] = _decode(tensor, raw, _datatype(tensor, datatypes.get(tensor.name), field), field)
    return tensors


def _check_contents(request: ModelInferRequest) -> None:
    """Checks that elements are sent in one of the two ways."""
    raws, inputs = len(request.raw_input_contents), request.inputs
    if not raws:
        return
    if both := next((tensor.name for tensor in inputs if tensor.HasField("contents")), None):
        raise InvalidRequestError(
            f"input {both[:64]!r}: has contents, and the request has raw_input_contents; send all inputs in one way"
        )
    if raws != len(inputs):
        raise InvalidRequestError(
            f"raw_input_contents: has {raws} entries for {len(inputs)} inputs; send one for each, in their order"
        )


def _datatype(tensor: Input, due: Datatype | None, field: str) -> Datatype:
    """Returns the datatype of a tensor; any that there is, if the model has no such input."""
    for known in DTYPES:
        if known == tensor.datatype and due in (None, known):
            return known
    raise InvalidRequestError(f"{field}: datatype is {tensor.datatype[:64]!r}, due is {due or ' or '.join(DTYPES)}")


def _decode(tensor: Input, raw: bytes | None, datatype: Datatype, field: str) -> NDArray[Any]:
    shape = check_shape(tensor.shape, field)
    if raw is None:
        return decode_contents(tensor.contents, datatype, shape, field)
    return decode_raw(raw, datatype, shape, field)


def _outputs(request: ModelInferRequest, model: TensorModel) -> dict[str, int]:
    """Returns the outputs that are wanted, each with how many classes of it are (0: the tensor)."""
    known = [spec.name for spec in model.outputs]
    wanted: dict[str, int] = {}
    for output in request.outputs:
        field = f"output {output.name[:64]!r}"
        if output.name not in known:
            raise InvalidRequestError(f"{field}: {model.name} has none of that name; it has: {', '.join(known)}")
        if output.name in wanted:
            raise InvalidRequestError(f"{field}: is asked for twice")
        _refuse_shared_memory(output.parameters, field)
        wanted[output.name] = _classes(output.parameters, field)
    return wanted or dict.fromkeys(known, 0)


def _classes(parameters: Mapping[str, Any], field: str) -> int:
    if _CLASSIFICATION not in parameters:
        return 0
    parameter = parameters[_CLASSIFICATION]
    if parameter.WhichOneof("parameter_choice") != "int64_param" or parameter.int64_param < 1:
        raise InvalidRequestError(f"{field}: classification takes an int64_param of at least 1")
    count: int = parameter.int64_param
    return count


def _refuse_shared_memory(parameters: Mapping[str, Any], field: str) -> None:
    if any(name.startswith(_SHARED_MEMORY) for name in parameters):
        raise UnsupportedError(f"{field}: this server has no shared memory; send the tensor in the message")
