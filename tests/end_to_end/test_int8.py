"""Int8 models, served: the same bits however a request comes, and whoever else asks at the same time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from bundles import WORDS
from hiddenstate import AsyncClient
from hiddenstate_server import variant_choice
from serving import serving
from variant_bundles import int8_language_model_bundle, int8_sentence_encoder_bundle

RNG = np.random.default_rng(3)
LETTERS = [word for word in WORDS if word.isalpha()]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of widths that no vector instruction fills."""
    folder = tmp_path_factory.mktemp("models")
    int8_language_model_bundle(folder, hidden_size=13, connections="residual")
    int8_sentence_encoder_bundle(folder, hidden_size=11, dimension=9, pooling="attention")
    return folder


@pytest_asyncio.fixture
async def client(models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A client of a server that takes int8 wherever it runs, and however little models this small gain."""
    monkeypatch.setattr(variant_choice, "_LEAST_GAIN", 0.0)
    monkeypatch.setattr(variant_choice, "_CPU_INFO", tmp_path / "unknown")
    async with serving(models, cache_bytes=0) as wire, AsyncClient(str(wire.server.address)) as client:
        yield client


async def test_text_stream_and_state_give_the_same_bits_word_by_word(client: AsyncClient) -> None:
    words = [str(word) for word in RNG.choice(LETTERS, size=50)]
    state = None
    async with client.open_stream() as stream, stream.context() as context:
        for count, word in enumerate(words, start=1):
            by_text = await client.predict(" ".join(words[:count]), top_k=10)
            by_stream = await context.predict(word, top_k=10)
            by_state = await client.predict(word, state=state, return_state=True, top_k=10)
            state = by_state.state
            assert by_text.candidates == by_stream.candidates == by_state.candidates


async def test_a_hundred_contexts_at_once_get_what_each_gets_alone(client: AsyncClient) -> None:
    texts = [" ".join(RNG.choice(LETTERS, size=size)) for size in RNG.integers(1, 40, size=100)]
    alone = [await client.predict(text) for text in texts]
    together = await asyncio.gather(*(client.predict(text) for text in texts))
    assert [one.candidates for one in alone] == [one.candidates for one in together]


async def test_sentences_of_mixed_lengths_get_the_same_bits_alone_and_together(client: AsyncClient) -> None:
    texts = [" ".join(RNG.choice(LETTERS, size=size)) for size in RNG.integers(1, 40, size=64)]
    alone = np.concatenate([await client.encode([text]) for text in texts])
    assert np.array_equal(await client.encode(texts), alone)
