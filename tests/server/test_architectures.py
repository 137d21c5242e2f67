"""Models of every architecture, served, against the computation in plain numpy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from architectures import STACKS
from bundles import SPECIALS, WORDS, language_model_bundle, language_model_weights, sentence_encoder_bundle
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections, StackShape
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.context import Context, HeldContext
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.repository import Repository
from hiddenstate_server.results import Candidate
from reference import ReferenceModel

VOCABULARY = [*SPECIALS, *WORDS]
TEXT = "the car was new and we were there for the time of her word"
LAYERS = 3
TOLERANCE = 2e-5


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Repository]:
    loop = asyncio.get_running_loop()
    repository = Repository.open(folder, settings=EngineSettings(), metrics=Metrics(), loop=loop)
    try:
        yield repository
    finally:
        repository.close()


def make_reference(cell: Cell, connections: Connections) -> ReferenceModel:
    shape = StackShape(cell=cell, connections=connections, input_size=8, hidden_size=16, num_layers=LAYERS)
    weights = language_model_weights(len(VOCABULARY), shape, seed=0)
    return ReferenceModel(weights, num_layers=LAYERS, cell=cell, connections=connections)


def assert_predicts(candidates: list[Candidate], reference: ReferenceModel, words: list[str]) -> None:
    """Holds candidates against the most likely words after a context that begins with the end of a text."""
    row = reference.log_probs([0, *(VOCABULARY.index(word) for word in words)])[-1]
    row[: len(SPECIALS)] = -np.inf
    wanted = np.argsort(-row)[: len(candidates)]
    assert [candidate.token_id for candidate in candidates] == list(wanted)
    np.testing.assert_allclose([c.log_prob for c in candidates], row[wanted], atol=TOLERANCE)


@pytest.mark.parametrize(("cell", "connections"), STACKS)
async def test_text_state_and_held_context_predict_what_numpy_computes(
    tmp_path: Path, cell: Cell, connections: Connections
) -> None:
    language_model_bundle(tmp_path, cell=cell, connections=connections, num_layers=LAYERS)
    reference = make_reference(cell, connections)
    words = TEXT.split()
    async with served(tmp_path) as repository:
        model, held, state = repository.language_model(), HeldContext(), b""
        for count, word in enumerate(words, start=1):
            by_state = await model.predict(Context(text=word, state=state), return_state=True)
            by_held = await model.predict(Context(text=word), held=held)
            state = by_state.state
            assert_predicts(by_state.candidates, reference, words[:count])
            assert by_held.candidates == by_state.candidates
        again = await model.predict(Context(state=state))  # the head alone, on the last output in the state
        assert again.usage.tokens_computed == 0
        assert_predicts(again.candidates, reference, words)
    async with served(tmp_path) as repository:  # without what has been computed above
        by_text = await repository.language_model().predict(Context(text=TEXT))
        assert by_text.usage.tokens_computed == len(words) + 1
        assert_predicts(by_text.candidates, reference, words)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max", "last", "attention"])
@pytest.mark.parametrize(("cell", "connections"), [("rnn", "residual"), ("lstm", "dense"), ("gru", "highway")])
async def test_a_sentence_has_the_same_vector_alone_and_beside_longer_ones(
    tmp_path: Path, cell: Cell, connections: Connections, pooling: Pooling, bidirectional: bool
) -> None:
    sentence_encoder_bundle(
        tmp_path, cell=cell, connections=connections, pooling=pooling, bidirectional=bidirectional, num_layers=2
    )
    texts = [TEXT, "thanks", "we were there"]
    async with served(tmp_path) as repository:
        encoder = repository.sentence_encoder()
        together = (await encoder.encode(texts)).embeddings
        alone = [(await encoder.encode([text])).embeddings[0] for text in texts]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.05
