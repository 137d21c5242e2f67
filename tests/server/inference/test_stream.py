"""ModelStreamInfer: replies in the order of the requests, errors that leave the stream open, sequences in order."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from hiddenstate_server.inference.open_inference_pb2 import (
    ModelInferRequest,
    ModelStreamInferResponse,
    ServerMetadataRequest,
)
from onnx_files import echo_model
from serving import WAIT_S, Wire, failure, held, serving, until
from tensor_requests import request, step, tensors


def add(id: int | str, value: float, **where: bool) -> ModelInferRequest:
    return step("sum", {"x": np.array([[value]], np.float32)}, id, **where)


def scale(id: str) -> ModelInferRequest:
    return request("scale", {"x": np.ones((1, 4), np.float32)}, id=id)


def total(reply: ModelStreamInferResponse) -> float:
    assert not reply.error_message
    return float(tensors(reply.infer_response)["total"][0, 0])


async def send(call: Any, *messages: ModelInferRequest) -> None:
    for message in messages:
        await call.write(message)


async def replies(call: Any, count: int) -> list[ModelStreamInferResponse]:
    async with asyncio.timeout(WAIT_S):
        return [await call.read() for _ in range(count)]


async def test_each_request_has_one_reply_which_says_that_it_is_the_last(tensors_wire: Wire) -> None:
    call = tensors_wire.inference.ModelStreamInfer()
    await send(call, scale("a"), request("tiny-encoder", {"sentences": ["I"]}, id="b"))
    first, second = await replies(call, 2)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert [reply.infer_response.id for reply in (first, second)] == ["a", "b"]
    assert [reply.infer_response.model_name for reply in (first, second)] == ["scale", "tiny-encoder"]
    for reply in (first, second):
        assert reply.infer_response.parameters["triton_final_response"].bool_param
    assert tensors(first.infer_response)["y"].tolist() == [[2, 2, 2, 2]]


async def test_an_empty_final_response_is_not_sent_where_the_reply_is_final(tensors_wire: Wire) -> None:
    call = tensors_wire.inference.ModelStreamInfer()
    message = scale("a")
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    await send(call, message)
    await call.done_writing()
    (reply,) = await replies(call, 1)
    assert reply.infer_response.outputs
    assert await call.read() is grpc.aio.EOF


async def test_many_sequences_on_one_stream_are_each_added_up_in_order(tensors_wire: Wire) -> None:
    call = tensors_wire.inference.ModelStreamInfer()
    ids: list[int | str] = [1, 2, "three", "four"]
    for turn in range(5):
        await send(call, *(add(id, number + 1, start=turn == 0, end=turn == 4) for number, id in enumerate(ids)))
    await call.done_writing()
    totals = [total(reply) for reply in await replies(call, 20)]
    assert totals == [(number + 1) * (turn + 1) for turn in range(5) for number in range(4)]


async def test_a_failed_request_is_told_in_its_reply_and_the_stream_lives_on(tensors_wire: Wire) -> None:
    call = tensors_wire.inference.ModelStreamInfer()
    await send(call, request("nobody", {}, id="x"), add(7, 1), scale("after"))
    unknown, stray, after = await replies(call, 3)
    assert "no model 'nobody'" in unknown.error_message
    assert (unknown.infer_response.id, unknown.infer_response.model_name) == ("x", "nobody")
    assert unknown.infer_response.parameters["triton_final_response"].bool_param
    assert "sequence 7 is not known here; begin it with sequence_start" in stray.error_message
    assert (after.error_message, after.infer_response.id) == ("", "after")
    await until(lambda: tensors_wire.metric("hiddenstate_requests_total", method="ModelStreamInfer", code="OK") == 1)
    assert tensors_wire.metric("hiddenstate_requests_total", method="ModelStreamInfer", code="NOT_FOUND") == 1


async def test_a_failed_step_takes_along_what_was_sent_behind_it(tensors_wire: Wire) -> None:
    call = tensors_wire.inference.ModelStreamInfer()
    await send(call, add(7, 1, start=True))
    assert [total(reply) for reply in await replies(call, 1)] == [1]
    bad = step("sum", {"x": np.zeros((1, 2), np.float32)}, 7)
    await send(call, bad, add(7, 2))
    wrong, after = await replies(call, 2)
    assert "has shape [1, 2]" in wrong.error_message
    assert not after.error_message or "before this one failed" in after.error_message


async def test_a_caller_may_ask_that_the_first_failure_ends_the_stream(tensors_wire: Wire) -> None:
    call = tensors_wire.inference.ModelStreamInfer(metadata=(("triton_grpc_error", "true"),))
    await send(call, scale("a"), request("nobody", {}))
    (first,) = await replies(call, 1)
    assert first.infer_response.id == "a"
    failed = await failure(call.read())
    assert failed.code() is grpc.StatusCode.NOT_FOUND
    assert "no model 'nobody'" in (failed.details() or "")


async def test_a_quick_reply_waits_for_the_slow_one_before_it(tensors_wire: Wire) -> None:
    call = tensors_wire.inference.ModelStreamInfer()
    with held(tensors_wire.server.repository.language_model()) as gate:
        await send(call, request("tiny-lm", {"text": ["I"]}, id="slow"), scale("quick"))
        done = {"method": "ModelStreamInfer", "code": "OK"}
        await gate.reached()
        await until(lambda: tensors_wire.metric("hiddenstate_requests_total", **done) == 1)
        gate.open()
        assert [reply.infer_response.id for reply in await replies(call, 2)] == ["slow", "quick"]


async def test_a_drain_answers_what_was_read_and_then_ends_the_stream(tensors_wire: Wire) -> None:
    call = tensors_wire.inference.ModelStreamInfer()
    with held(tensors_wire.server.repository.language_model()) as gate:
        await send(call, request("tiny-lm", {"text": ["I"]}, id="read"))
        await gate.reached()
        draining = asyncio.create_task(tensors_wire.server.drain())
        await until(lambda: tensors_wire.server.running.draining)
        gate.open()
        (reply,) = await replies(call, 1)
        assert reply.infer_response.id == "read"
        assert (await failure(call.read())).code() is grpc.StatusCode.UNAVAILABLE
        assert await draining


async def test_a_caller_who_leaves_takes_its_requests_along(tensors_wire: Wire) -> None:
    model = tensors_wire.server.repository.language_model()
    call = tensors_wire.inference.ModelStreamInfer()
    with held(model) as gate:
        await send(call, *(request("tiny-lm", {"text": ["I"]}) for _ in range(3)))
        await gate.reached()
        call.cancel()
        left = {"method": "ModelStreamInfer", "code": "CANCELLED"}
        await until(lambda: tensors_wire.metric("hiddenstate_streams_total", **left) == 1)
        gate.open()
        await until(lambda: not model.scheduler.waiting_requests)


async def test_large_requests_stop_a_stream_from_being_read_before_their_number_does(tmp_path: Path) -> None:
    echo_model(tmp_path, ["FP32"])
    in_flight = {"name": "hiddenstate_requests_in_flight", "method": "ModelStreamInfer"}
    async with serving(tmp_path, max_stream_pending=8) as wire:
        model: Any = wire.server.repository.find("echo")
        large = request("echo", {"FP32": np.zeros((1, 50_000), np.float32)})  # weighs 4
        call = wire.inference.ModelStreamInfer()
        with held(model) as gate:
            await send(call, *[large] * 5)
            await gate.reached()
            await until(lambda: wire.metric(**in_flight) == 2)
            await wire.inference.ServerMetadata(ServerMetadataRequest())
            assert wire.metric(**in_flight) == 2
            gate.open()
            answers = await replies(call, 5)
        assert [answer.infer_response.outputs[0].shape[1] for answer in answers] == [50_000] * 5


async def test_bytes_that_are_no_message_end_the_stream(tensors_wire: Wire) -> None:
    call: Any = tensors_wire.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
    await call.write(b"\xff\xff")
    assert (await failure(call.read())).code() is grpc.StatusCode.INVALID_ARGUMENT
