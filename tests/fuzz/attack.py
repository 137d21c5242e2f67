"""Sends what `Drawing` draws to a real server, and tells what it should not have answered."""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import grpc
import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from fuzz.findings import Findings
from fuzz.messages import Drawing
from hiddenstate.v1 import language_model_pb2 as lm
from hiddenstate.v1 import model_pb2, sentence_encoder_pb2
from hiddenstate_server.inference import open_inference_pb2 as oip
from serving import Wire
from tensor_requests import request, step

TIMEOUT_S = 30.0  # a call that takes longer hangs
_AT_A_TIME = 16
_SERVICES = (lm, sentence_encoder_pb2, model_pb2, oip, health_pb2)
# The models are needed for the rest; the second does not end; the third is left unwritten by grpcio-health-checking.
_LEFT_OUT = ("RepositoryModelUnload", "Watch", "List")
_FAULTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.DATA_LOSS,
}
# What grpc.aio's client says when it still writes to a stream that the server has refused; the server's count tells.
_OF_THE_CLIENT = "Internal error from Core"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Method(NamedTuple):
    """One call of a contract."""

    path: str
    descriptor: Any
    seeds: Sequence[Message]


async def attack_calls(wire: Wire, *, count: int, seed: int) -> Findings:
    """Sends so many messages over calls of both contracts."""
    drawing = Drawing(Random(seed), await _states(wire))
    methods, findings = _methods(), Findings(Counter(), [])
    room = asyncio.Semaphore(_AT_A_TIME)

    async def send(method: Method, sent: Sequence[bytes]) -> None:
        async with room:
            await _send(wire.channel, method, sent, findings)

    left = count
    while left > 0:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(left, 500)):
                method = drawing.random.choice(methods)
                is_stream = method.descriptor.client_streaming
                sent = [
                    drawing.request(method.seeds, method.descriptor.input_type)
                    for _ in range(drawing.random.randint(1, 4) if is_stream else 1)
                ]
                left -= len(sent)
                group.create_task(send(method, sent))
    findings.faults.extend(_counted_faults(wire))
    return findings


async def attack_frames(wire: Wire, *, count: int, seed: int) -> None:
    """Opens so many connections and sends bytes that are not, or hardly, HTTP/2.

    Raises:
        TimeoutError: the server neither answers nor ends one of them after it was told that no more will come.
    """
    random = Random(seed)
    for _ in range(count):
        await asyncio.to_thread(_send_frames, wire.server.address, [_frame(random) for _ in range(8)], random.random())


async def _send(channel: grpc.aio.Channel, method: Method, sent: Sequence[bytes], findings: Findings) -> None:
    code, details = await _outcome(channel, method, sent)
    findings.codes[f"{method.path.rpartition('/')[2]} {code.name}"] += 1
    if code in _FAULTS and details != _OF_THE_CLIENT:
        hexes = " ".join(each.hex() for each in sent)
        findings.faults.append(f"{method.path}: {code.name}: {details}: {hexes[:2000]}")


async def _outcome(channel: grpc.aio.Channel, method: Method, sent: Sequence[bytes]) -> tuple[grpc.StatusCode, str]:
    try:
        if method.descriptor.client_streaming:
            return await _stream(channel, method, sent)
        if method.descriptor.server_streaming:
            replies: Any = channel.unary_stream(method.path)
            async for _ in replies(sent[0], timeout=TIMEOUT_S):
                pass
        else:
            call: Any = channel.unary_unary(method.path)
            await call(sent[0], timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def _stream(channel: grpc.aio.Channel, method: Method, sent: Sequence[bytes]) -> tuple[grpc.StatusCode, str]:
    async def requests() -> Any:
        for each in sent:
            yield each

    call: Any = channel.stream_stream(method.path)(requests(), timeout=TIMEOUT_S)
    async for data in call:
        if fault := _fault_within(method, data):
            return grpc.StatusCode.INTERNAL, fault
    return await call.code(), await call.details() or ""


def _fault_within(method: Method, data: bytes) -> str:
    """Returns what one request of a stream was told that nobody should be."""
    reply = method.descriptor.output_type._concrete_class.FromString(data)
    if isinstance(reply, oip.ModelStreamInferResponse):
        return reply.error_message if "its log says why" in reply.error_message else ""
    # A request may have a deadline of its own, which may pass.
    codes = {code.value[0] for code in _FAULTS - {grpc.StatusCode.DEADLINE_EXCEEDED}}
    return next((str(each.error) for each in reply.responses if each.error.code in codes), "")


def _counted_faults(wire: Wire) -> Iterator[str]:
    for family in wire.server.metrics.registry.collect():
        for sample in family.samples:
            if sample.labels.get("code") in ("INTERNAL", "UNKNOWN") and sample.value:
                yield f"the server counted {sample.name} {sample.labels}: {sample.value:g}"


async def _states(wire: Wire) -> list[bytes]:
    replies = [
        await wire.language_model.Predict(lm.PredictRequest(text=text, return_state=True))
        for text in ("I", "I would like", "The car was new")
    ]
    return [reply.state for reply in replies]


def _methods() -> list[Method]:
    seeds = _seeds()
    return [
        Method(f"/{service.full_name}/{method.name}", method, seeds.get(method.name, ()))
        for module in _SERVICES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.name not in _LEFT_OUT
    ]


def _seeds() -> Mapping[str, Sequence[Message]]:
    predict = [lm.PredictRequest(text="I would"), lm.PredictRequest(tokens=lm.TokenIds(ids=[3, 4]), return_state=True)]
    infer = [
        request("tiny-lm", {"text": ["I would like"]}),
        request("tiny-encoder", {"text": ["The car was new."]}),
        step("tiny-lm", {"text": ["I"]}, 7, start=True),
        step("tiny-lm", {"text": ["I"]}, "seven", end=True),
        request("tiny-lm", {"tokens": np.array([[3, 4]], dtype=np.int64)}),
    ]
    encode = sentence_encoder_pb2.EncodeRequest(sentences=["The car was new.", "The"])
    return {
        "Predict": predict,
        "PredictStream": [
            lm.PredictStreamRequest(
                requests=[
                    lm.StreamedPredictRequest(request_id=number, context_id=number % 2, predict=each)
                    for number, each in enumerate(predict)
                ]
            )
        ],
        "Generate": [lm.GenerateRequest(text="I", max_tokens=3)],
        "Score": [lm.ScoreRequest(text="I would like")],
        "Encode": [encode],
        "EncodeStream": [
            sentence_encoder_pb2.EncodeStreamRequest(
                requests=[sentence_encoder_pb2.StreamedEncodeRequest(request_id=1, encode=encode)]
            )
        ],
        "ModelInfer": infer,
        "ModelStreamInfer": infer,
        "ModelMetadata": [oip.ModelMetadataRequest(name="tiny-lm")],
        "ModelConfig": [oip.ModelConfigRequest(name="tiny-lm")],
    }


def _frame(random: Random) -> bytes:
    """Draws a frame: its length, type, flags and stream may contradict what follows."""
    body = random.randbytes(random.choice((0, 1, 4, 6, 8, 40, 300)))
    length = random.choice((len(body), len(body), 0, 5, 2**14, 2**24 - 1))
    return length.to_bytes(3) + bytes([random.randrange(12), random.randrange(256)]) + random.randbytes(4) + body


def _send_frames(address: tuple[str, int], frames: Sequence[bytes], draw: float) -> None:
    with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
        try:
            connection.sendall((_PREFACE if draw < 0.8 else b"") + (b"\0\0\0\4\0\0\0\0\0" if draw < 0.6 else b""))
            for frame in frames:
                connection.sendall(frame)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except TimeoutError:
            raise
        except OSError:
            pass  # it has ended the connection, as it should
