"""Int8 answers are the same to the bit whatever else is computed, with two runners and with one that has two threads.

Integer products are exact, and each row is scaled by itself: who shares a batch must not be seen in an answer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from bundles import WORDS
from hiddenstate.v1.language_model_pb2 import (
    GenerateRequest,
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    ScoreRequest,
    StreamedPredictRequest,
)
from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest
from hiddenstate_server import variant_choice
from serving import Wire, serving
from variant_bundles import int8_language_model_bundle, int8_sentence_encoder_bundle

RNG = np.random.default_rng(5)
TEXTS = [" ".join(RNG.choice([word for word in WORDS if word.isalpha()], size=length)) for length in range(1, 41)]


@pytest.fixture(scope="module")
def int8_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds of model."""
    folder = tmp_path_factory.mktemp("int8")
    int8_language_model_bundle(folder)
    int8_sentence_encoder_bundle(folder)
    return folder


@pytest_asyncio.fixture(params=[{"runners": 2, "threads": 1}, {"runners": 1, "threads": 2}], ids=["2x1", "1x2"])
async def int8_wire(
    int8_models: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Wire]:
    """A server of int8 graphs, whether or not they are fast here; without a cache, so that all is computed."""
    monkeypatch.setattr(variant_choice, "_LEAST_GAIN", 0.0)
    monkeypatch.setattr(variant_choice, "_lacks_instructions", lambda: False)
    async with serving(int8_models, variant="int8", cache_bytes=0, **request.param) as wire:
        reader: Any = wire.server.repository.language_model()._reader
        assert reader._state_bounds  # which only int8 graphs have
        yield wire


async def test_candidates_are_the_same_to_the_bit_alone_and_whatever_else_is_in_flight(int8_wire: Wire) -> None:
    alone = [await predict(int8_wire, text) for text in TEXTS]
    busy = asyncio.gather(*(each for text in TEXTS for each in others(int8_wire, text)))
    for _ in range(3):
        together = await asyncio.gather(*(predict(int8_wire, text) for text in TEXTS))
        streamed = await by_stream(int8_wire, TEXTS)
        for one, call, reply in zip(alone, together, streamed, strict=True):
            assert call.candidates == one.candidates
            assert call.state == one.state
            assert reply.candidates == one.candidates
            assert reply.state == one.state
    await busy


async def test_vectors_are_the_same_to_the_bit_alone_and_in_any_batch_of_like_length(int8_wire: Wire) -> None:
    alone = [await encode(int8_wire, [text]) for text in TEXTS]
    for _ in range(3):
        assert await asyncio.gather(*(encode(int8_wire, [text]) for text in TEXTS)) == alone
        assert await encode(int8_wire, TEXTS) == b"".join(alone)


async def predict(wire: Wire, text: str) -> PredictResponse:
    return await wire.language_model.Predict(PredictRequest(text=text, top_k=20, return_state=True))


async def encode(wire: Wire, sentences: Sequence[str]) -> bytes:
    return (await wire.sentence_encoder.Encode(EncodeRequest(sentences=sentences))).embeddings


def others(wire: Wire, text: str) -> Sequence[Any]:
    """Other work for the same model: it shares batches."""
    return wire.language_model.Score(ScoreRequest(text=text + " the car")), generate(wire, text)


async def generate(wire: Wire, text: str) -> int:
    request = GenerateRequest(text=text, max_tokens=10, seed=1)
    return len([response async for response in wire.language_model.Generate(request)])


async def by_stream(wire: Wire, texts: Sequence[str]) -> list[PredictResponse]:
    """Asks for all in one message of a stream."""
    call: Any = wire.language_model.PredictStream()
    requests = [
        StreamedPredictRequest(request_id=number, predict=PredictRequest(text=text, top_k=20, return_state=True))
        for number, text in enumerate(texts)
    ]
    await call.write(PredictStreamRequest(requests=requests))
    replies: dict[int, PredictResponse] = {}
    while len(replies) < len(texts):
        replies |= {reply.request_id: reply.response for reply in (await call.read()).responses}
    call.cancel()
    return [replies[number] for number in range(len(texts))]
