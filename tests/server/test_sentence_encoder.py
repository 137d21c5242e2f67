"""The sentence encoder: the same vector whatever goes beside it."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest

from bundles import WORDS, sentence_encoder_bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import DeadlineError, InvalidRequestError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.repository import Repository
from hiddenstate_server.sentence_encoder import SentenceEncoder
from marks import put_marks


def sentences(count: int, longest: int = 60) -> list[str]:
    choose = random.Random(0)
    return [" ".join(choose.choices(WORDS, k=choose.randint(1, longest))) for _ in range(count)]


async def test_a_vector_is_the_same_alone_and_in_a_mixed_batch(sentence_encoder: SentenceEncoder) -> None:
    texts = sentences(64)
    together = await sentence_encoder.encode(texts)
    assert together.embeddings.shape == (64, sentence_encoder.dimension)
    for text, embedding in zip(texts, together.embeddings, strict=True):
        alone = await sentence_encoder.encode([text])
        np.testing.assert_allclose(alone.embeddings[0], embedding, atol=1e-5)


async def test_vectors_come_in_the_order_of_the_sentences_under_concurrent_calls(
    sentence_encoder: SentenceEncoder,
) -> None:
    texts = sentences(40)
    wanted = (await sentence_encoder.encode(texts)).embeddings
    answers = await asyncio.gather(*(sentence_encoder.encode(texts[i::5]) for i in range(5)))
    for offset, answer in enumerate(answers):
        np.testing.assert_allclose(answer.embeddings, wanted[offset::5], atol=1e-5)


async def test_vectors_have_length_one(sentence_encoder: SentenceEncoder) -> None:
    embeddings = (await sentence_encoder.encode(sentences(10))).embeddings
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


async def test_a_long_sentence_is_cut_at_its_end_and_counted(sentence_encoder: SentenceEncoder) -> None:
    words = sentences(1, 60)[0].split() * 10
    cut = " ".join(words[: sentence_encoder.max_seq_length])
    long = await sentence_encoder.encode([" ".join(words), cut])
    np.testing.assert_allclose(long.embeddings[0], long.embeddings[1], atol=1e-5)
    assert long.truncated == 1
    assert long.usage.tokens_computed == 2 * sentence_encoder.max_seq_length


async def test_a_long_sentence_keeps_the_marks_around_it_when_it_is_cut(tmp_path: Path) -> None:
    put_marks(sentence_encoder_bundle(tmp_path, max_seq_length=10))
    loop = asyncio.get_running_loop()
    repository = Repository.open(tmp_path, settings=EngineSettings(), metrics=Metrics(), loop=loop)
    answer = await repository.sentence_encoder().encode([" ".join(WORDS[:20]), " ".join(WORDS[:7])])  # 7 and 3 marks
    np.testing.assert_allclose(answer.embeddings[0], answer.embeddings[1], atol=1e-5)
    assert answer.truncated == 1
    with pytest.raises(InvalidRequestError, match=r"sentences\[0\]: has nothing that the tokenizer knows"):
        await repository.sentence_encoder().encode(["\u200b"])  # marks alone are no sentence
    repository.close()


async def test_a_long_sentence_is_refused_where_cutting_is_not_allowed(sentence_encoder: SentenceEncoder) -> None:
    with pytest.raises(InvalidRequestError, match=r"sentences\[1\]: has 100 tokens, tiny-encoder reads 64"):
        await sentence_encoder.encode(["the", "the " * 100], truncate=False)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "sentences: is empty"),
        (["the", ""], r"sentences\[1\]: is empty"),
        ([" \t"], r"sentences\[0\]: is empty"),
        (["the"] * 10_000, "sentences: has 10,000, one call may have 1,024"),
    ],
)
async def test_bad_sentences_are_refused_naming_the_first(
    sentence_encoder: SentenceEncoder, texts: list[str], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        await sentence_encoder.encode(texts)


async def test_a_deadline_that_has_passed_is_told(sentence_encoder: SentenceEncoder) -> None:
    with pytest.raises(DeadlineError):
        await sentence_encoder.encode(["the"], deadline=0.0)
