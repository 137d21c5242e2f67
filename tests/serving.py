"""A real server in this process, and a gate that holds its models still."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceStub
from hiddenstate.v1.model_pb2_grpc import ModelServiceStub
from hiddenstate.v1.sentence_encoder_pb2_grpc import SentenceEncoderServiceStub
from hiddenstate_server.config import Settings
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.sentence_encoder import SentenceEncoder
from hiddenstate_server.server import Server

if TYPE_CHECKING:  # these names are in the type stubs only
    from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceAsyncStub
    from hiddenstate.v1.model_pb2_grpc import ModelServiceAsyncStub
    from hiddenstate.v1.sentence_encoder_pb2_grpc import SentenceEncoderServiceAsyncStub
    from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceAsyncStub

WAIT_S = 20.0


class Wire:
    """A server and stubs of all its services, over a real connection."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.language_model: LanguageModelServiceAsyncStub = LanguageModelServiceStub(channel)
        self.sentence_encoder: SentenceEncoderServiceAsyncStub = SentenceEncoderServiceStub(channel)
        self.models: ModelServiceAsyncStub = ModelServiceStub(channel)
        self.inference: GRPCInferenceServiceAsyncStub = GRPCInferenceServiceStub(channel)

    def metric(self, name: str, **labels: str) -> float:
        """Returns a sample's value; 0 where there is none yet."""
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def serving(models: Path, **settings: Any) -> AsyncIterator[Wire]:
    """Serves a folder of models on a free port. No model is tried in a process of its own, unless that is asked for."""
    settings = {"trial_timeout_s": 0, "listen": "127.0.0.1:0", "metrics": "off", **settings}
    server = await Server.start(Settings.of(models=models, **settings))
    try:
        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            yield Wire(server, channel)
    finally:
        await server.stop()


class Gate:
    """Stands before each batch of a model until it is opened."""

    def __init__(self, step: Any) -> None:
        self._step = step
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, batch: Sequence[Any]) -> Any:
        self._reached.set()
        assert self._opened.wait(WAIT_S)
        return self._step(batch)

    async def reached(self) -> None:
        """Returns when a batch stands before the gate."""
        assert await asyncio.to_thread(self._reached.wait, WAIT_S)

    def open(self) -> None:
        """Lets all batches pass from now on."""
        self._opened.set()


@contextmanager
def held(model: LanguageModel | SentenceEncoder) -> Iterator[Gate]:
    """Holds a model's batches; the gate opens at the latest when the block ends."""
    scheduler: Any = model.scheduler
    gate = Gate(scheduler._step)
    scheduler._step = gate
    try:
        yield gate
    finally:
        gate.open()


async def until(condition: Any) -> None:
    """Returns when a condition of the event loop holds, which only its own callbacks can change."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - the server has no event for what only a test wants to know
            await asyncio.sleep(0)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """Returns the error that a call ends with."""
    try:
        async with asyncio.timeout(WAIT_S):
            if hasattr(call, "__await__"):
                await call
            else:
                async for _ in call:
                    pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")
