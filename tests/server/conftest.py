"""Tiny real models behind a real engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bundles import SPECIALS, WORDS, language_model_bundle, language_model_weights, sentence_encoder_bundle
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.repository import Repository
from hiddenstate_server.sentence_encoder import SentenceEncoder
from reference import ReferenceModel
from serving import Wire, serving

VOCABULARY = [*SPECIALS, *WORDS]


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one language model and one sentence encoder. Not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    language_model_bundle(folder)
    sentence_encoder_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def reference() -> ReferenceModel:
    """The language model of `models_dir` in numpy."""
    shape = StackShape(cell="lstm", connections="none", input_size=8, hidden_size=16, num_layers=2)
    return ReferenceModel(language_model_weights(len(VOCABULARY), shape, seed=0), num_layers=2)


@pytest_asyncio.fixture
async def repository(models_dir: Path) -> AsyncIterator[Repository]:
    """Both models, served."""
    loop = asyncio.get_running_loop()
    repository = Repository.open(models_dir, settings=EngineSettings(), metrics=Metrics(), loop=loop)
    yield repository
    repository.close()


@pytest_asyncio.fixture
async def language_model(repository: Repository) -> LanguageModel:
    """The language model, served."""
    return repository.language_model()


@pytest_asyncio.fixture
async def sentence_encoder(repository: Repository) -> SentenceEncoder:
    """The sentence encoder, served."""
    return repository.sentence_encoder()


@pytest_asyncio.fixture
async def wire(models_dir: Path) -> AsyncIterator[Wire]:
    """A server of both models, with its defaults."""
    async with serving(models_dir) as wire:
        yield wire


@pytest_asyncio.fixture
async def one_runner(models_dir: Path) -> AsyncIterator[Wire]:
    """A server whose models run one batch at a time, so that what comes while one is held waits in the queue."""
    async with serving(models_dir, runners=1) as wire:
        yield wire
