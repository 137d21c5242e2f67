"""What is sent wrongly is refused with the right status, in one line that says what to change."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from hiddenstate_server.inference import open_inference_pb2 as messages
from serving import Wire, failure
from tensor_requests import parameter, request, step

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
NOT_NOW = grpc.StatusCode.FAILED_PRECONDITION

X = np.zeros((2, 4), np.float32)
Edit = Callable[[messages.ModelInferRequest], Any]


def good() -> messages.ModelInferRequest:
    return request("scale", {"x": X})


def without_inputs(message: messages.ModelInferRequest) -> None:
    del message.inputs[:], message.raw_input_contents[:]


def input_sent_twice(message: messages.ModelInferRequest) -> None:
    message.inputs.append(message.inputs[0])
    message.raw_input_contents.append(X.tobytes())


def set_shape(*sizes: int) -> Edit:
    def edit(message: messages.ModelInferRequest) -> None:
        message.inputs[0].shape[:] = sizes

    return edit


def with_parameter(name: str, value: bool | int | str | float) -> Edit:
    return lambda message: message.parameters[name].CopyFrom(parameter(value))


CASES: list[tuple[Edit, grpc.StatusCode, str]] = [
    (lambda m: setattr(m, "model_name", ""), INVALID, "model_name: is empty; RepositoryIndex tells the names"),
    (lambda m: setattr(m, "model_name", "nobody"), NOT_FOUND, "no model 'nobody'"),
    (lambda m: setattr(m, "model_version", "9"), NOT_FOUND, "model_version: scale has no version '9'"),
    (lambda m: setattr(m, "model_version", "canary"), NOT_FOUND, "model_version: scale has no version 'canary'"),
    (lambda m: setattr(m.inputs[0], "name", "z"), INVALID, "input 'z': scale has none of that name; it takes x"),
    (without_inputs, INVALID, "input 'x': is missing"),
    (input_sent_twice, INVALID, "is sent twice"),
    (lambda m: setattr(m.inputs[0], "datatype", "INT32"), INVALID, "datatype is 'INT32', due is FP32"),
    (lambda m: setattr(m.inputs[0], "datatype", "FLOAT"), INVALID, "datatype is 'FLOAT', due is FP32"),
    (lambda m: setattr(m.inputs[0], "datatype", ""), INVALID, "datatype is '', due is FP32"),
    (set_shape(4, 2), INVALID, "input 'x': has shape [4, 2]"),
    (set_shape(8), INVALID, "input 'x': has shape [8]"),
    (set_shape(2, -4), INVALID, "send the sizes of what you send, not -1"),
    (set_shape(2**40, 2**40), INVALID, "a tensor may have 2,147,483,648 elements"),
    (set_shape(3, 4), INVALID, "has 32 raw bytes, FP32 of shape [3, 4] takes 48"),
    (lambda m: m.raw_input_contents.append(b""), INVALID, "raw_input_contents: has 2 entries for 1 inputs"),
    (
        lambda m: m.inputs[0].contents.fp32_contents.extend(range(8)),
        INVALID,
        "input 'x': has contents, and the request has raw_input_contents; send all inputs in one way",
    ),
    (lambda m: m.ClearField("raw_input_contents"), INVALID, "has 0 elements in contents, shape [2, 4] takes 8"),
    (lambda m: m.outputs.add(name="z"), INVALID, "output 'z': scale has none of that name; it has: y"),
    (lambda m: [m.outputs.add(name="y") for _ in range(2)], INVALID, "output 'y': is asked for twice"),
    (
        lambda m: m.outputs.add(name="y").parameters["classification"].CopyFrom(parameter(0)),
        INVALID,
        "output 'y': classification takes an int64_param of at least 1",
    ),
    (
        lambda m: m.inputs[0].parameters["shared_memory_region"].CopyFrom(parameter("region")),
        UNIMPLEMENTED,
        "input 'x': this server has no shared memory; send the tensor in the message",
    ),
    (
        lambda m: m.outputs.add(name="y").parameters["shared_memory_region"].CopyFrom(parameter("region")),
        UNIMPLEMENTED,
        "output 'y': this server has no shared memory",
    ),
    (with_parameter("sequence_start", True), INVALID, "sequence_start is set and sequence_id is not"),
    (with_parameter("sequence_id", 1.5), INVALID, "sequence_id is sent as double_param; send it as int64_param or"),
    (with_parameter("sequence_end", 1), INVALID, "sequence_end is sent as int64_param; send it as bool_param"),
    (with_parameter("timeout", -1), INVALID, "timeout is -1; send microseconds"),
    (with_parameter("priority", "high"), INVALID, "priority is sent as string_param"),
    (with_parameter("triton_final", True), INVALID, "'triton_final' is not known; names with triton_ are reserved"),
    (lambda m: m.parameters["timeout"].Clear(), INVALID, "timeout is sent as nothing"),
]


@pytest.mark.parametrize(("edit", "code", "reason"), CASES)
async def test_a_wrong_request_is_refused(tensors_wire: Wire, edit: Edit, code: grpc.StatusCode, reason: str) -> None:
    message = good()
    edit(message)
    failed = await failure(tensors_wire.inference.ModelInfer(message))
    assert failed.code() is code
    assert reason in (failed.details() or "")
    assert "\n" not in (failed.details() or "")
    await tensors_wire.inference.ModelInfer(good())


SEQUENCE_CASES = [
    (step("sum", {"x": X[:1, :1]}, 5), NOT_NOW, "sequence 5 is not known here; begin it with sequence_start"),
    (step("sum", {"x": X[:1, :1]}, "a"), NOT_NOW, "sequence 'a' is not known here"),
    (step("sum", {"x": X[:1, :1]}, "a" * 129, start=True), INVALID, "sequence_id: has 129 characters, at most 128"),
    (request("sum", {"x": X[:1, :1]}), INVALID, "sequence_id"),
    (step("tiny-lm", {"text": ["I", "you"]}, 5, start=True), INVALID, "has 2 rows, a step of a sequence has 1"),
]


@pytest.mark.parametrize(("message", "code", "reason"), SEQUENCE_CASES)
async def test_a_wrong_step_is_refused(
    tensors_wire: Wire, message: messages.ModelInferRequest, code: grpc.StatusCode, reason: str
) -> None:
    failed = await failure(tensors_wire.inference.ModelInfer(message))
    assert (failed.code(), reason in (failed.details() or "")) == (code, True), failed.details()


async def test_a_step_after_the_end_is_refused(tensors_wire: Wire) -> None:
    await tensors_wire.inference.ModelInfer(step("sum", {"x": X[:1, :1]}, 5, start=True, end=True))
    failed = await failure(tensors_wire.inference.ModelInfer(step("sum", {"x": X[:1, :1]}, 5)))
    assert failed.code() is NOT_NOW
    assert "sequence 5 has ended; begin it with sequence_start" in (failed.details() or "")


TEXT_CASES: list[tuple[str, dict[str, Any], str]] = [
    ("tiny-lm", {"text": [b"\xff"]}, "input 'text': element 0 is not UTF-8"),
    ("tiny-lm", {"text": []}, "the batch has 0 rows; one request may have 1 to 128"),
    ("tiny-lm", {"text": ["I"] * 129}, "the batch has 129 rows; one request may have 1 to 128"),
    ("tiny-lm", {"text": ["I", "you"], "prefix": ["t"]}, "inputs differ in their batch"),
    ("tiny-lm", {"text": ["I"], "top_k": np.zeros(1, np.int32)}, "top_k: is 0"),
    ("tiny-lm", {"text": ["I"], "top_k": np.ones((1, 2), np.int32)}, "shape is [1, 2], the model takes [-1, 1]"),
    ("tiny-lm", {"prefix": ["t"]}, "input 'text': is missing; the model takes text, top_k (optional), prefix"),
    ("tiny-lm", {"text": ["I"], "sentences": ["I"]}, "input 'sentences': there is none of that name"),
    ("tiny-encoder", {"sentences": ["I", " "]}, "sentences[1]: is empty"),
    ("tiny-encoder", {"sentences": []}, "the batch has 0 rows"),
]


@pytest.mark.parametrize(("model", "inputs", "reason"), TEXT_CASES)
async def test_wrong_texts_are_refused(tensors_wire: Wire, model: str, inputs: dict[str, Any], reason: str) -> None:
    failed = await failure(tensors_wire.inference.ModelInfer(request(model, inputs)))
    assert failed.code() is INVALID
    assert reason in (failed.details() or "")


async def test_bytes_that_are_no_message_are_refused(tensors_wire: Wire) -> None:
    call: Any = tensors_wire.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    failed = await failure(call(b"\xff\xff"))
    assert failed.code() is INVALID
    assert "the request is not the message that this method takes" in (failed.details() or "")


LOOKUPS: list[tuple[str, Any]] = [
    ("ModelMetadata", messages.ModelMetadataRequest),
    ("ModelConfig", messages.ModelConfigRequest),
    ("ModelStatistics", messages.ModelStatisticsRequest),
]


@pytest.mark.parametrize(("method", "ask"), LOOKUPS)
async def test_models_and_versions_that_there_are_not_are_not_found(tensors_wire: Wire, method: str, ask: Any) -> None:
    for name, version in (("nobody", ""), ("scale", "9")):
        failed = await failure(getattr(tensors_wire.inference, method)(ask(name=name, version=version)))
        assert failed.code() is NOT_FOUND
        assert (version or name) in (failed.details() or "")


@pytest.mark.parametrize(("method", "ask"), LOOKUPS[:2])
async def test_a_lookup_has_to_name_its_model(tensors_wire: Wire, method: str, ask: Any) -> None:
    failed = await failure(getattr(tensors_wire.inference, method)(ask()))
    assert (failed.code(), failed.details()) == (INVALID, "name: is empty; RepositoryIndex tells the names")


@pytest.mark.parametrize(
    ("method", "instead"),
    [
        ("SystemSharedMemoryStatus", "this server has no shared memory"),
        ("SystemSharedMemoryRegister", "this server has no shared memory"),
        ("SystemSharedMemoryUnregister", "this server has no shared memory"),
        ("CudaSharedMemoryStatus", "this server has no shared memory"),
        ("CudaSharedMemoryRegister", "this server has no shared memory"),
        ("CudaSharedMemoryUnregister", "this server has no shared memory"),
        ("TraceSetting", "this server has no trace settings"),
        ("LogSettings", "log settings are options of `hiddenstate serve`"),
    ],
)
async def test_calls_that_only_triton_has_are_refused_in_words(tensors_wire: Wire, method: str, instead: str) -> None:
    call: Any = tensors_wire.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
    failed = await failure(call(b"\x0a\x01x"))
    assert failed.code() is UNIMPLEMENTED
    assert (failed.details() or "").startswith(f"{method}: {instead}")
