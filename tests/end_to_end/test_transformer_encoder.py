"""A transformer from a sentence-transformers folder, served: its vectors are those of sentence-transformers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio

from hiddenstate import AsyncClient, InvalidRequestError
from hiddenstate_exporter.publishing import parity
from hiddenstate_exporter.publishing.export import ExportOptions, export
from serving import serving
from teachers import sentences
from transformers_folder import HIDDEN_SIZE, MAX_SEQ_LENGTH, load, write_transformer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SAME = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sentence-transformers folder."""
    return write_transformer(tmp_path_factory.mktemp("transformer") / "x")


@pytest.fixture(scope="module")
def reference(folder: Path) -> "SentenceTransformer":
    """The model as sentence-transformers loads it."""
    return load(folder)


@pytest.fixture(scope="module")
def models(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a bundle."""
    target = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "BATCH_SIZES", (1,))
        export(folder, ExportOptions(to=target, name="bert", dtype="float32"))
    return target


@pytest_asyncio.fixture
async def client(models: Path) -> AsyncIterator[AsyncClient]:
    """A client of a server of the bundle."""
    async with serving(models) as wire, AsyncClient(str(wire.server.address)) as client:
        yield client


async def test_vectors_are_those_of_sentence_transformers_alone_and_in_a_batch(
    client: AsyncClient, reference: "SentenceTransformer"
) -> None:
    texts = [*sentences(40), "Caf\u00e9", "the cats wanted \u4f60", "unknown words !", "the cat " * 12]
    together = await client.encode(texts)
    assert together.shape == (len(texts), HIDDEN_SIZE)
    np.testing.assert_allclose(together, reference.encode(texts), rtol=0, atol=SAME)
    alone = np.concatenate([await client.encode([text]) for text in texts])
    np.testing.assert_allclose(alone, together, rtol=0, atol=SAME)


async def test_long_sentences_are_cut_where_sentence_transformers_cuts_them(
    client: AsyncClient, reference: "SentenceTransformer"
) -> None:
    words = ("the cat sees a dog and a horse finds bread " * 10).split()
    room = MAX_SEQ_LENGTH - 2  # beside [CLS] and [SEP]
    texts = [" ".join(words[:length]) for length in (room - 1, room, room + 1, len(words))]
    vectors = await client.encode(texts)
    np.testing.assert_allclose(vectors, reference.encode(texts), rtol=0, atol=SAME)
    np.testing.assert_allclose(vectors[1], vectors[2], rtol=0, atol=SAME)
    assert np.abs(vectors[0] - vectors[1]).max() > 100 * SAME
    with pytest.raises(InvalidRequestError, match="has 33 tokens, bert reads 32"):
        await client.encode(texts[2:3], truncate=False)


async def test_the_model_tells_what_it_is(client: AsyncClient) -> None:
    (model,) = await client.models()
    assert model.architecture == "bidirectional transformer 2x24, embedding 24 with mean pooling"
    assert (model.dimension, model.max_seq_length) == (HIDDEN_SIZE, MAX_SEQ_LENGTH)
