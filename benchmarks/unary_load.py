"""One call for each request: over one HTTP/2 connection, or over an HTTP/1.1 connection for each caller."""

import asyncio
import itertools
from collections.abc import Iterator

from benchmarks.http2_load import Http2Load
from benchmarks.http_load import HttpLoad
from benchmarks.load import Load
from benchmarks.pace import paced
from benchmarks.samples import Clock, Measured, Samples
from benchmarks.texts import distinct_words, sentences, texts
from hiddenstate import AsyncClient
from hiddenstate.v1.language_model_pb2 import PredictRequest, ScoreRequest
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest

_ENCODE = "/hiddenstate.v1.SentenceEncoderService/Encode"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_PREDICT = "/hiddenstate.v1.LanguageModelService/Predict"
_SCORE = "/hiddenstate.v1.LanguageModelService/Score"
_SENTENCES, _SCORED = 4096, 64


async def grpc(load: Load) -> Measured:
    """Measures unary gRPC calls."""
    method, payloads = await _calls(load)
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Http2Load(method, payloads, load.timeout_s), *_host_port(load.address)
    )
    if load.per_s:
        return await paced(load, connection)
    connection.keep(load.callers)
    await asyncio.sleep(load.warm_up_s)
    clock = Clock(load.server_pid, connection.samples, connection.refused)
    await asyncio.wait([connection.used_up], timeout=load.seconds)
    return clock.read()


async def http(load: Load) -> Measured:
    """Measures POST requests."""
    samples, payloads = Samples(), itertools.cycle([text.encode() for text in sentences(_SENTENCES, load.seed)])
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: HttpLoad("/inference", payloads, samples), *_host_port(load.address)))[1]
        for _ in range(load.callers)
    ]
    await asyncio.sleep(load.warm_up_s)
    clock = Clock(load.server_pid, samples)
    await asyncio.sleep(load.seconds)
    measured = clock.read()
    for connection in connections:
        connection.stop()
    return measured


async def _calls(load: Load) -> tuple[str, Iterator[bytes]]:
    """Returns a method and the requests to send it."""
    if load.kind == "encode":
        encodes = [EncodeRequest(sentences=[text]) for text in sentences(_SENTENCES, load.seed)]
        return _ENCODE, itertools.cycle([request.SerializeToString() for request in encodes])
    if load.kind == "infer":
        infers = [_infer_request(text) for text in sentences(_SENTENCES, load.seed)]
        return _INFER, itertools.cycle([request.SerializeToString() for request in infers])
    if load.kind == "score":
        scored = texts([load.num_words] * _SCORED, load.seed + load.part, load.vocab_size)
        return _SCORE, itertools.cycle([ScoreRequest(text=text).SerializeToString() for text in scored])
    beginning = await _seen_before(load)
    words = distinct_words(load.part, load.parts, load.seed, load.vocab_size)
    predicts = [PredictRequest(text=f"{beginning} {word}".strip(), top_k=load.top_k) for word in words]
    return _PREDICT, iter([request.SerializeToString() for request in predicts])


def _infer_request(text: str) -> ModelInferRequest:
    request = ModelInferRequest(model_name="encoder")
    request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(text.encode())
    return request


async def _seen_before(load: Load) -> str:
    """Returns all words of a context but the last, once the server has seen them."""
    (beginning,) = texts([load.num_words - 1], load.seed + load.part, load.vocab_size)
    if beginning:
        async with AsyncClient(load.address) as client:
            await client.predict(beginning)
    return beginning


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
