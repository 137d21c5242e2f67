"""Requests of the Open Inference Protocol for tests, and what their replies hold, made without the server's codec."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.inference.open_inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse

NUMPY = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
NAMES = {np.dtype(dtype): name for name, dtype in NUMPY.items()}

Values = NDArray[Any] | list[str] | list[bytes]


def request(model: str, inputs: Mapping[str, Values], id: str = "", **parameters: Any) -> ModelInferRequest:
    """Makes a request with raw contents; lists are BYTES, [n]."""
    message = ModelInferRequest(model_name=model, id=id)
    for name, values in inputs.items():
        datatype, shape, raw = _raw(values)
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(raw)
    for name, value in parameters.items():
        message.parameters[name].CopyFrom(parameter(value))
    return message


def step(
    model: str, inputs: Mapping[str, Values], id: int | str, *, start: bool = False, end: bool = False
) -> ModelInferRequest:
    """Makes a request that is a step of a sequence."""
    return request(model, inputs, sequence_id=id, sequence_start=start, sequence_end=end)


def parameter(value: bool | int | str | float) -> InferParameter:
    """Makes a parameter; a whole number is sent as int64."""
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return InferParameter(**{kinds[type(value)]: value})  # type: ignore[arg-type]


def tensors(response: ModelInferResponse) -> dict[str, NDArray[Any]]:
    """Returns what a response holds."""
    outputs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {output.name: _array(output, raw) for output, raw in outputs}


def _raw(values: Values) -> tuple[str, tuple[int, ...], bytes]:
    if isinstance(values, np.ndarray):
        return NAMES[values.dtype], values.shape, values.tobytes()
    elements = [value.encode() if isinstance(value, str) else value for value in values]
    return "BYTES", (len(elements),), b"".join(struct.pack("<I", len(each)) + each for each in elements)


def _array(output: ModelInferResponse.InferOutputTensor, raw: bytes) -> NDArray[Any]:
    if output.datatype != "BYTES":
        return np.frombuffer(raw, NUMPY[output.datatype]).reshape(output.shape)
    elements = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        elements.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return np.array(elements, dtype=object).reshape(output.shape)
