"""Every call of the Open Inference Protocol, through the wire."""

import asyncio
import importlib.metadata
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from hiddenstate_server.inference import open_inference_pb2 as messages
from onnx_files import ELEMENTS
from serving import Wire, failure
from tensor_requests import NUMPY, parameter, request, step, tensors

SERVICE = "inference.GRPCInferenceService"


def every_datatype() -> dict[str, Any]:
    """Returns two rows of each datatype, its extreme values among them."""
    values: dict[str, Any] = {"BOOL": np.array([[True], [False]])}
    for name, dtype in NUMPY.items():
        if np.issubdtype(dtype, np.integer):
            values[name] = np.array([[np.iinfo(dtype).min], [np.iinfo(dtype).max]], dtype)
        elif np.issubdtype(dtype, np.floating):
            values[name] = np.array([[np.finfo(dtype).min, np.nan], [-0.0, np.inf]], dtype)
    return values


def scale_request(**parameters: Any) -> messages.ModelInferRequest:
    return request("scale", {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}, **parameters)


async def test_the_server_lives_is_ready_and_tells_what_it_is(tensors_wire: Wire) -> None:
    stub = tensors_wire.inference
    assert (await stub.ServerLive(messages.ServerLiveRequest())).live
    assert (await stub.ServerReady(messages.ServerReadyRequest())).ready
    metadata = await stub.ServerMetadata(messages.ServerMetadataRequest())
    assert (metadata.name, metadata.version) == ("hiddenstate", importlib.metadata.version("hiddenstate"))
    assert {"sequence", "sequence(string_id)", "statistics", "model_repository", "model_configuration"} <= set(
        metadata.extensions
    )
    assert not any(
        "shared_memory" in extension or extension in ("trace", "logging") for extension in metadata.extensions
    )


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("scale", "", True), ("scale", "1", True), ("tiny-lm", "1", True), ("scale", "9", False), ("nobody", "", False),
     ("", "", False)],
)  # fmt: skip
async def test_a_model_is_ready_if_it_would_be_found(tensors_wire: Wire, name: str, version: str, ready: bool) -> None:
    answer = await tensors_wire.inference.ModelReady(messages.ModelReadyRequest(name=name, version=version))
    assert answer.ready is ready


async def test_a_server_that_drains_is_alive_and_not_ready(tensors_wire: Wire) -> None:
    await tensors_wire.server.drain()
    stub = tensors_wire.inference
    assert (await stub.ServerLive(messages.ServerLiveRequest())).live
    assert not (await stub.ServerReady(messages.ServerReadyRequest())).ready
    assert not (await stub.ModelReady(messages.ModelReadyRequest(name="scale"))).ready
    assert (await failure(stub.ModelInfer(scale_request()))).code() is grpc.StatusCode.UNAVAILABLE


async def test_metadata_describe_inputs_and_outputs_with_their_batch(tensors_wire: Wire) -> None:
    metadata = await tensors_wire.inference.ModelMetadata(messages.ModelMetadataRequest(name="scale"))
    assert MessageToDict(metadata) == {
        "name": "scale",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": ["-1", "4"]}],
    }


async def test_metadata_of_a_model_with_a_state_do_not_tell_of_it(tensors_wire: Wire) -> None:
    metadata = await tensors_wire.inference.ModelMetadata(messages.ModelMetadataRequest(name="sum"))
    assert [tensor.name for tensor in metadata.inputs] == ["x"]
    assert [tensor.name for tensor in metadata.outputs] == ["total"]


async def test_our_own_models_have_metadata_too(tensors_wire: Wire) -> None:
    lm = await tensors_wire.inference.ModelMetadata(messages.ModelMetadataRequest(name="tiny-lm"))
    assert [(each.name, each.datatype, list(each.shape)) for each in (*lm.inputs, *lm.outputs)] == [
        ("text", "BYTES", [-1, 1]),
        ("top_k", "INT32", [-1, 1]),
        ("prefix", "BYTES", [-1, 1]),
        ("words", "BYTES", [-1, -1]),
        ("log_probs", "FP32", [-1, -1]),
        ("token_ids", "INT64", [-1, -1]),
    ]
    encoder = await tensors_wire.inference.ModelMetadata(messages.ModelMetadataRequest(name="tiny-encoder"))
    assert [(each.name, each.datatype, list(each.shape)) for each in encoder.outputs] == [
        ("embeddings", "FP32", [-1, 12])
    ]


async def test_the_configuration_tells_how_a_model_is_batched(tensors_wire: Wire) -> None:
    stub = tensors_wire.inference
    config = (await stub.ModelConfig(messages.ModelConfigRequest(name="scale", version="1"))).config
    assert (config.name, config.platform, config.backend) == ("scale", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 128
    assert config.HasField("dynamic_batching")
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [("x", messages.TYPE_FP32, [4])]
    assert [(each.name, each.data_type, list(each.dims)) for each in config.output] == [("y", messages.TYPE_FP32, [4])]
    assert [(each.count, each.kind) for each in config.instance_group] == [(1, messages.ModelInstanceGroup.KIND_CPU)]
    assert config.parameters["provider"].string_value == "CPUExecutionProvider"
    assert not config.model_transaction_policy.decoupled


@pytest.mark.parametrize("model", ["sum", "tiny-lm"])
async def test_the_configuration_tells_of_sequences(tensors_wire: Wire, model: str) -> None:
    config = (await tensors_wire.inference.ModelConfig(messages.ModelConfigRequest(name=model))).config
    assert config.sequence_batching.max_sequence_idle_microseconds == 60_000_000
    assert config.WhichOneof("scheduling_choice") == "sequence_batching"


async def test_the_configuration_tells_every_datatype_and_what_may_be_left_out(tensors_wire: Wire) -> None:
    stub = tensors_wire.inference
    echo = (await stub.ModelConfig(messages.ModelConfigRequest(name="echo"))).config
    names = {each.name: messages.DataType.Name(each.data_type) for each in echo.input}
    assert names == {datatype: f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}" for datatype in ELEMENTS}
    lm = (await stub.ModelConfig(messages.ModelConfigRequest(name="tiny-lm"))).config
    assert [each.name for each in lm.input if each.optional] == ["top_k", "prefix"]


async def test_every_datatype_goes_to_a_model_and_back(tensors_wire: Wire) -> None:
    values = every_datatype()
    message = request("echo", values)
    message.inputs.add(name="BYTES", datatype="BYTES", shape=[2, 1])
    message.raw_input_contents.append(b"\3\0\0\0\xc3\xa9!" + b"\0\0\0\0")
    response = await tensors_wire.inference.ModelInfer(message)
    answer = tensors(response)
    for name, array in values.items():
        np.testing.assert_array_equal(answer[f"out_{name}"], array)
        assert answer[f"out_{name}"].dtype == array.dtype
    assert answer["out_BYTES"].tolist() == [["é!".encode()], [b""]]


async def test_typed_contents_are_answered_as_raw_ones(tensors_wire: Wire) -> None:
    contents = messages.InferTensorContents(fp32_contents=range(8))
    tensor = messages.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2, 4], contents=contents)
    typed = await tensors_wire.inference.ModelInfer(messages.ModelInferRequest(model_name="scale", inputs=[tensor]))
    raw = await tensors_wire.inference.ModelInfer(scale_request())
    assert typed.SerializeToString(deterministic=True) == raw.SerializeToString(deterministic=True)
    np.testing.assert_array_equal(tensors(raw)["y"], 2 * np.arange(8, dtype=np.float32).reshape(2, 4))


async def test_outputs_come_in_the_order_in_which_they_are_asked_for(tensors_wire: Wire) -> None:
    message = request("tiny-lm", {"text": ["I would"]}, id="17")
    message.outputs.add(name="token_ids")
    message.outputs.add(name="words")
    response = await tensors_wire.inference.ModelInfer(message)
    assert [each.name for each in response.outputs] == ["token_ids", "words"]
    assert response.id == "17"


async def test_classification_answers_the_largest_values_of_each_row(tensors_wire: Wire) -> None:
    message = request("scale", {"x": np.array([[1, 4, 2, 3], [0, 0, -1, 7]], np.float32)})
    message.outputs.add(name="y").parameters["classification"].CopyFrom(parameter(2))
    response = await tensors_wire.inference.ModelInfer(message)
    (output,) = response.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 2])
    assert tensors(response)["y"].tolist() == [[b"8.000000:1", b"6.000000:3"], [b"14.000000:3", b"0.000000:0"]]


async def test_parameters_that_have_no_meaning_here_are_let_be(tensors_wire: Wire) -> None:
    message = scale_request(timeout=10_000_000, triton_enable_empty_final_response=True, of_my_own="x", sequence_id=3)
    message.parameters["priority"].uint64_param = 1
    assert tensors(await tensors_wire.inference.ModelInfer(message))["y"].shape == (2, 4)


@pytest.mark.parametrize("id", [5, "five"])
async def test_a_sequence_carries_its_state_and_two_do_not_mix(tensors_wire: Wire, id: int | str) -> None:
    async def total(value: float, of: int | str, **where: bool) -> float:
        message = step("sum", {"x": np.array([[value]], np.float32)}, of, **where)
        return float(tensors(await tensors_wire.inference.ModelInfer(message))["total"][0, 0])

    assert await total(1, id, start=True) == 1
    assert await total(10, 99, start=True) == 10
    assert await total(2, id) == 3
    assert await total(20, 99) == 30
    assert await total(3, id, end=True) == 6
    assert await total(30, 99, end=True) == 60


async def test_many_sequences_at_once_each_add_up_their_own(tensors_wire: Wire) -> None:
    async def run(id: int) -> list[float]:
        totals = []
        for number in range(5):
            message = step("sum", {"x": np.array([[id]], np.float32)}, id, start=number == 0, end=number == 4)
            totals.append(float(tensors(await tensors_wire.inference.ModelInfer(message))["total"][0, 0]))
        return totals

    ids = range(1, 21)
    assert await asyncio.gather(*map(run, ids)) == [[id * n for n in range(1, 6)] for id in ids]


async def test_statistics_count_calls_rows_and_runs(tensors_wire: Wire) -> None:
    for _ in range(3):
        await tensors_wire.inference.ModelInfer(scale_request())
    await failure(tensors_wire.inference.ModelInfer(request("scale", {"x": np.zeros((1, 5), np.float32)})))
    ask = messages.ModelStatisticsRequest(name="scale")
    (stats,) = (await tensors_wire.inference.ModelStatistics(ask)).model_stats
    assert (stats.name, stats.version, stats.inference_count, stats.execution_count) == ("scale", "1", 6, 3)
    counts = stats.inference_stats
    assert [counts.success.count, counts.fail.count, counts.queue.count, counts.compute_infer.count] == [3, 1, 3, 3]
    parts = counts.queue.ns + counts.compute_input.ns + counts.compute_infer.ns + counts.compute_output.ns
    assert 0 < parts <= counts.success.ns
    assert [(each.batch_size, each.compute_infer.count) for each in stats.batch_stats] == [(2, 3)]
    assert stats.last_inference > 1_700_000_000_000


@pytest.mark.parametrize("request_of", ["tiny-lm", "tiny-encoder"])
async def test_our_own_models_count_their_rows(tensors_wire: Wire, request_of: str) -> None:
    name = {"tiny-lm": "text", "tiny-encoder": "sentences"}[request_of]
    await tensors_wire.inference.ModelInfer(request(request_of, {name: ["I would", "thank you"]}))
    await failure(tensors_wire.inference.ModelInfer(request(request_of, {name: [b"\xff"]})))
    ask = messages.ModelStatisticsRequest(name=request_of, version="1")
    (stats,) = (await tensors_wire.inference.ModelStatistics(ask)).model_stats
    assert (stats.inference_count, stats.execution_count) == (2, 1)
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (1, 1)
    assert stats.inference_stats.success.ns >= stats.inference_stats.compute_infer.ns > 0


async def test_statistics_of_all_models_are_told_where_none_is_named(tensors_wire: Wire) -> None:
    answer = await tensors_wire.inference.ModelStatistics(messages.ModelStatisticsRequest())
    assert [each.name for each in answer.model_stats] == ["echo", "scale", "sum", "tiny-encoder", "tiny-lm"]


async def test_sequences_of_a_language_model_are_measured(tensors_wire: Wire) -> None:
    await tensors_wire.inference.ModelInfer(step("tiny-lm", {"text": ["I"]}, 5, start=True))
    labels = {"model": "tiny-lm", "version": "1"}
    assert tensors_wire.metric("hiddenstate_sequences", **labels) == 1
    assert tensors_wire.metric("hiddenstate_sequence_bytes", **labels) > 0


async def test_reflection_and_health_know_the_service(tensors_wire: Wire) -> None:
    health: Any = HealthStub(tensors_wire.channel)
    answer = await health.Check(HealthCheckRequest(service=SERVICE))
    assert answer.status == HealthCheckResponse.SERVING
    channel: Any = tensors_wire.channel
    reflection: Any = ServerReflectionStub(channel)
    ask = ServerReflectionRequest(file_containing_symbol=SERVICE)
    async for reply in reflection.ServerReflectionInfo(iter([ask])):
        (file,) = reply.file_descriptor_response.file_descriptor_proto
        assert b"ModelStreamInfer" in file
