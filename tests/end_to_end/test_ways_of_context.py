"""The three ways to carry a context give the same answer: whole text, a stream that remembers, a state that is sent."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from bundles import WORDS
from hiddenstate import AsyncClient, Prediction
from serving import serving

RNG = np.random.default_rng(2)
HUNDRED_WORDS = [str(word) for word in RNG.choice([word for word in WORDS if word.isalpha()], size=100)]


@pytest_asyncio.fixture(params=[0, 2**20], ids=["without a cache", "with a cache"])
async def client(models_dir: Path, request: pytest.FixtureRequest) -> AsyncIterator[AsyncClient]:
    """A client of a server in this process."""
    async with serving(models_dir, cache_bytes=request.param) as wire, AsyncClient(str(wire.server.address)) as client:
        yield client


async def test_text_stream_and_state_predict_the_same_word_by_word(client: AsyncClient) -> None:
    state = None
    async with client.open_stream() as stream, stream.context() as context:
        for count, word in enumerate(HUNDRED_WORDS, start=1):
            by_text = await client.predict(" ".join(HUNDRED_WORDS[:count]), top_k=10)
            by_stream = await context.predict(word, top_k=10)
            by_state = await client.predict(word, state=state, return_state=True, top_k=10)
            state = by_state.state
            assert_same(by_text, by_stream)
            assert_same(by_text, by_state)


def assert_same(one: Prediction, other: Prediction) -> None:
    """Checks words, ids and log probabilities."""
    assert [(c.word, c.token_id) for c in one.candidates] == [(c.word, c.token_id) for c in other.candidates]
    np.testing.assert_allclose(
        [c.log_prob for c in one.candidates], [c.log_prob for c in other.candidates], rtol=0, atol=1e-5
    )
