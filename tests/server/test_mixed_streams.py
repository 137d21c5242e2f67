"""Random mixes of streams, calls and callers that go away, through the wire, against plain numpy."""

import asyncio
import dataclasses
import gc
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bundles import SPECIALS, WORDS, language_model_weights
from hiddenstate.v1.language_model_pb2 import (
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    StreamedPredictRequest,
    StreamedPredictResponse,
)
from hiddenstate.v1.priority_pb2 import PRIORITY_BULK, PRIORITY_INTERACTIVE
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest, EncodeStreamRequest, StreamedEncodeRequest
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_server.predict_stream import StreamContext
from reference import ReferenceModel
from serving import WAIT_S, Wire, serving, until

VOCABULARY = [*SPECIALS, *WORDS]
TOLERANCE = 1e-5
CACHE_BYTES = 6_000
LATE = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]


@dataclasses.dataclass(frozen=True)
class Step:
    """One request of a stream."""

    context_id: int
    text: str
    is_bulk: bool
    closes: bool
    fault: str  # none, late or invalid
    with_next: bool  # whether it is sent in one message with the next


@dataclasses.dataclass(frozen=True)
class Script:
    """What one caller sends, and after how many replies it goes away; None: after the last."""

    steps: list[Step]
    leaves_after: int | None


TEXTS = st.lists(st.sampled_from(WORDS[:20]), min_size=1, max_size=40).map(" ".join)
STEPS = st.builds(
    Step,
    context_id=st.integers(0, 3),
    text=st.lists(st.sampled_from(WORDS[:20]), min_size=1, max_size=3).map(" ".join) | TEXTS,
    is_bulk=st.booleans(),
    closes=st.integers(0, 5).map(lambda number: number == 5),
    fault=st.sampled_from(["none"] * 6 + ["late", "invalid"]),
    with_next=st.booleans(),
)
SCRIPTS = st.builds(Script, steps=st.lists(STEPS, min_size=1, max_size=25), leaves_after=st.none() | st.integers(0, 10))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("runners", [1, 2, 3])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scripts=st.lists(SCRIPTS, min_size=1, max_size=5), texts=st.lists(TEXTS, max_size=10))
def test_streams_and_calls_at_once_answer_what_numpy_computes_and_leave_nothing(
    models_dir: Path, runners: int, scripts: list[Script], texts: list[str]
) -> None:
    async def mix() -> None:
        async with serving(
            models_dir, runners=runners, max_batch=5, cache_bytes=CACHE_BYTES, max_stream_pending=8
        ) as wire:
            before = tasks_of_ours()
            async with asyncio.timeout(60):
                await asyncio.gather(
                    *(play(wire, script) for script in scripts),
                    *(call(wire, text) for text in texts),
                    encode(wire, texts),
                )
            await nothing_is_left(wire, before)

    asyncio.run(mix())


async def play(wire: Wire, script: Script) -> None:
    """Sends a script over a stream and checks every reply that comes."""
    call = wire.language_model.PredictStream()
    sending = asyncio.create_task(send(call, script))
    wanted, seen = wanted_of(script), 0
    while script.leaves_after is None or seen < script.leaves_after:
        async with asyncio.timeout(WAIT_S):
            message: Any = await call.read()
        if message is grpc.aio.EOF:
            assert seen == len(script.steps)
            break
        for reply in message.responses:
            assert_reply(reply, wanted[reply.request_id])
            seen += 1
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    call.cancel()


async def send(call: Any, script: Script) -> None:
    requests = []
    for number, step in enumerate(script.steps):
        requests.append(request_of(number, step))
        if not step.with_next:
            await call.write(PredictStreamRequest(requests=requests))
            requests = []
    await call.write(PredictStreamRequest(requests=requests))
    await call.done_writing()


def request_of(number: int, step: Step) -> StreamedPredictRequest:
    predict = PredictRequest(
        text=step.text,
        top_k=0 if step.fault == "invalid" else 7,
        priority=PRIORITY_BULK if step.is_bulk else PRIORITY_INTERACTIVE,
    )
    return StreamedPredictRequest(
        request_id=number,
        context_id=step.context_id,
        predict=predict,
        close_context=step.closes,
        timeout_ms=0 if step.fault == "late" else None,
    )


def wanted_of(script: Script) -> list[str | int]:
    """Returns for each request the text whose continuation it is answered, or the code that it fails with."""
    contexts: dict[int, list[str]] = {}
    wanted: list[str | int] = []
    for step in script.steps:
        words = contexts.get(step.context_id, [])
        if step.fault == "none":
            words = [*words, step.text]
            wanted.append(" ".join(words))
        else:
            wanted.append(LATE if step.fault == "late" else INVALID)
        contexts[step.context_id] = [] if step.closes or not step.context_id else words
    return wanted


def assert_reply(reply: StreamedPredictResponse, wanted: str | int) -> None:
    if isinstance(wanted, int):
        assert reply.error.code == wanted
    else:
        assert reply.WhichOneof("result") == "response", reply.error.message
        assert_response(reply.response, wanted)


def assert_response(response: PredictResponse, text: str) -> None:
    ids = [0, *(VOCABULARY.index(word) for word in text.split())]
    row = log_probs_after(tuple(ids))
    best = [i for i in np.argsort(-row) if i >= len(SPECIALS)][:7]
    ids_answered, log_probs = zip(*((c.token_id, c.log_prob) for c in response.candidates), strict=True)
    # Words that are as likely as each other may change places.
    np.testing.assert_allclose(log_probs, row[best], atol=TOLERANCE)
    np.testing.assert_allclose(log_probs, row[list(ids_answered)], atol=TOLERANCE)
    assert len(set(ids_answered)) == len(best)
    usage = response.usage
    assert usage.tokens_computed + usage.tokens_reused == len(ids)


@cache
def log_probs_after(ids: tuple[int, ...]) -> NDArray[np.float64]:
    """Returns what plain numpy computes for the word after these, [vocab_size]."""
    shape = StackShape(cell="lstm", connections="none", input_size=8, hidden_size=16, num_layers=2)
    model = ReferenceModel(language_model_weights(len(VOCABULARY), shape, seed=0), num_layers=2)
    last: NDArray[np.float64] = model.log_probs(list(ids))[-1]
    return last


async def call(wire: Wire, text: str) -> None:
    assert_response(await wire.language_model.Predict(PredictRequest(text=text, top_k=7)), text)


async def encode(wire: Wire, texts: list[str]) -> None:
    """Sends each text alone over a stream, and all in one call: the vectors are the same."""
    if not texts:
        return
    call = wire.sentence_encoder.EncodeStream()
    requests = [StreamedEncodeRequest(request_id=n, encode=EncodeRequest(sentences=[t])) for n, t in enumerate(texts)]
    await call.write(EncodeStreamRequest(requests=requests))
    await call.done_writing()
    request = EncodeRequest(sentences=texts, priority=PRIORITY_BULK)
    together = (await wire.sentence_encoder.Encode(request)).embeddings
    alone: dict[int, bytes] = {}
    while True:
        message: Any = await call.read()
        if message is grpc.aio.EOF:
            break
        alone |= {reply.request_id: reply.response.embeddings for reply in message.responses}
    vectors = np.frombuffer(b"".join(alone[number] for number in range(len(texts))), dtype="<f4")
    np.testing.assert_allclose(vectors, np.frombuffer(together, dtype="<f4"), atol=TOLERANCE)


async def nothing_is_left(wire: Wire, before: set[Any]) -> None:
    """Returns when all calls have ended and no work waits, and checks that nothing else remains of them."""
    await until(lambda: wire.server.running.count == 0)
    for model in wire.server.repository.models():
        await until(lambda model=model: model.scheduler.waiting_requests == 0)
        admission = model.scheduler._admission
        assert (admission.waiting_tokens, admission._waiting_interactive) == (0, 0)
    for method in ("Predict", "PredictStream", "Encode", "EncodeStream"):
        assert wire.metric("hiddenstate_requests_in_flight", method=method) == 0
        assert wire.metric("hiddenstate_streams_open", method=method) == 0
    assert wire.server.repository.cache.bytes <= CACHE_BYTES
    await until(lambda: not tasks_of_ours() - before)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is StreamContext]


def tasks_of_ours() -> set[Any]:
    """Returns the tasks that run code of the server; gRPC has some of its own."""
    codes = {task: getattr(task.get_coro(), "cr_code", None) for task in asyncio.all_tasks()}
    return {task for task, code in codes.items() if "hiddenstate_server" in getattr(code, "co_filename", "")}
