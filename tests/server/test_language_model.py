"""The language model against a computation in plain numpy, and against itself by other ways."""

import asyncio

import numpy as np
import pytest

from bundles import SPECIALS, WORDS
from hiddenstate_server.context import Context, HeldContext
from hiddenstate_server.errors import InvalidRequestError, ServingError
from hiddenstate_server.generation import GenerateOptions
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.repository import Repository
from hiddenstate_server.results import Candidate, FinishReason, GeneratedToken, Prediction
from reference import ReferenceModel

VOCABULARY = [*SPECIALS, *WORDS]
EOS_ID = 0
TEXT = "the car was new and we were there for the time of her word"
TOLERANCE = 1e-5


def ids(text: str) -> list[int]:
    return [EOS_ID, *(VOCABULARY.index(word) for word in text.split())]


def expected(reference: ReferenceModel, text: str, top_k: int, prefix: str = "") -> list[tuple[str, float]]:
    row = reference.log_probs(ids(text))[-1]
    words = [i for i in np.argsort(-row) if i >= len(SPECIALS) and VOCABULARY[i].startswith(prefix)]
    return [(VOCABULARY[i], row[i]) for i in words[:top_k]]


def assert_same(candidates: list[Candidate], wanted: list[tuple[str, float]]) -> None:
    assert [candidate.word for candidate in candidates] == [word for word, _ in wanted]
    np.testing.assert_allclose([c.log_prob for c in candidates], [p for _, p in wanted], atol=TOLERANCE)
    assert [VOCABULARY[candidate.token_id] for candidate in candidates] == [word for word, _ in wanted]


async def generate(model: LanguageModel, text: str, **options: object) -> list[GeneratedToken]:
    stream = model.generate(Context(text=text), options=GenerateOptions(**options))  # type: ignore[arg-type]
    return [token async for token in stream]


async def test_predicts_what_numpy_computes(language_model: LanguageModel, reference: ReferenceModel) -> None:
    prediction = await language_model.predict(Context(text=TEXT), top_k=7)
    assert_same(prediction.candidates, expected(reference, TEXT, 7))


async def test_token_ids_are_as_good_as_text(language_model: LanguageModel) -> None:
    by_text = await language_model.predict(Context(text=TEXT))
    by_tokens = await language_model.predict(Context(tokens=ids(TEXT)[1:]))
    assert by_tokens.candidates == by_text.candidates


@pytest.mark.parametrize("prefix", ["t", "th", "the", "ca", "I"])
async def test_a_prefix_leaves_only_words_that_begin_with_it(
    language_model: LanguageModel, reference: ReferenceModel, prefix: str
) -> None:
    prediction = await language_model.predict(Context(text=TEXT), top_k=30, prefix=prefix)
    assert_same(prediction.candidates, expected(reference, TEXT, 30, prefix))


@pytest.mark.parametrize("prefix", ["xyzzy", "tHe", "é" * 100_000])
async def test_a_prefix_that_no_word_begins_with_leaves_none(language_model: LanguageModel, prefix: str) -> None:
    alone, other = await asyncio.gather(
        language_model.predict(Context(text=TEXT), prefix=prefix), language_model.predict(Context(text=TEXT))
    )
    assert alone.candidates == []
    assert len(other.candidates) == 5


async def test_asking_for_all_words_gives_all_but_the_special_tokens(language_model: LanguageModel) -> None:
    prediction = await language_model.predict(Context(text=TEXT), top_k=language_model.max_top_k)
    assert sorted(candidate.word for candidate in prediction.candidates) == sorted(WORDS)


async def test_text_state_and_held_context_agree_word_by_word(
    language_model: LanguageModel, reference: ReferenceModel
) -> None:
    held, state, words = HeldContext(), b"", TEXT.split()
    for count, word in enumerate(words, start=1):
        text = " ".join(words[:count])
        by_state = await language_model.predict(Context(text=word, state=state), return_state=True)
        by_held = await language_model.predict(Context(text=word), held=held)
        by_text = await language_model.predict(Context(text=text))
        state = by_state.state
        for prediction in (by_state, by_held, by_text):
            assert_same(prediction.candidates, expected(reference, text, 5))
    assert by_state.usage.tokens_computed == by_held.usage.tokens_computed == 1
    assert by_state.usage.tokens_reused == by_held.usage.tokens_reused == len(words)


async def test_a_state_alone_answers_again_without_computing(language_model: LanguageModel) -> None:
    first = await language_model.predict(Context(text=TEXT), return_state=True)
    again = await language_model.predict(Context(state=first.state), return_state=True)
    assert again.candidates == first.candidates
    assert again.state == first.state
    assert again.usage.tokens_computed == 0


async def test_a_repeated_beginning_is_not_computed_again(language_model: LanguageModel) -> None:
    first = await language_model.predict(Context(text=TEXT))
    longer = await language_model.predict(Context(text=TEXT + " you"))
    assert (first.usage.tokens_computed, first.usage.tokens_reused) == (len(ids(TEXT)), 0)
    assert (longer.usage.tokens_computed, longer.usage.tokens_reused) == (1, len(ids(TEXT)))


async def test_contexts_of_many_lengths_at_once_do_not_change_each_other(
    language_model: LanguageModel, reference: ReferenceModel
) -> None:
    words = (TEXT + " ") * 6
    texts = [" ".join(words.split()[:count]) for count in range(1, 70)]
    calls = [language_model.predict(Context(text=text), prefix="t" if len(text) % 3 else "") for text in texts]
    scores = [language_model.score(Context(text=text)) for text in texts[::7]]
    generations = [generate(language_model, text, max_tokens=5, seed=1) for text in texts[::9]]
    predictions, *_ = await asyncio.gather(
        asyncio.gather(*calls), asyncio.gather(*scores), asyncio.gather(*generations)
    )
    for text, prediction in zip(texts, predictions, strict=True):
        assert_same(prediction.candidates, expected(reference, text, 5, "t" if len(text) % 3 else ""))


async def test_scores_every_token_as_numpy_does(language_model: LanguageModel, reference: ReferenceModel) -> None:
    text = " ".join([TEXT] * 6)
    tokens = ids(text)
    rows = reference.log_probs(tokens[:-1])
    wanted = rows[np.arange(len(rows)), tokens[1:]]
    score = await language_model.score(Context(text=text))
    np.testing.assert_allclose([token.log_prob for token in score.tokens], wanted, atol=TOLERANCE)
    assert [token.token for token in score.tokens] == text.split()
    assert score.log_prob == pytest.approx(wanted.sum(), abs=1e-3)
    assert score.perplexity == pytest.approx(np.exp(-wanted.mean()), rel=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 33])
async def test_a_text_scored_after_a_state_is_scored_as_its_continuation(
    language_model: LanguageModel, length: int
) -> None:
    rest = " ".join((TEXT.split() * 3)[:length])
    whole = await language_model.score(Context(text=f"{TEXT} {rest}"))
    state = (await language_model.predict(Context(text=TEXT), return_state=True)).state
    tail = await language_model.score(Context(text=rest, state=state))
    assert len(tail.tokens) == length
    wanted = [token.log_prob for token in whole.tokens[-length:]]
    np.testing.assert_allclose([token.log_prob for token in tail.tokens], wanted, atol=TOLERANCE)


async def test_greedy_generation_takes_the_likeliest_word_every_time(
    language_model: LanguageModel, reference: ReferenceModel
) -> None:
    tokens = await generate(language_model, TEXT, temperature=0.0, max_tokens=12)
    text = TEXT
    for token in tokens:
        row = reference.log_probs(ids(text))[-1]
        row[1] = -np.inf  # the unknown word is never written
        assert token.token_id == row.argmax()
        assert token.log_prob == pytest.approx(row.max(), abs=TOLERANCE)
        text += " " + VOCABULARY[token.token_id]
    assert tokens[-1].finish_reason in (FinishReason.LENGTH, FinishReason.END_OF_TEXT)
    assert all(token.finish_reason is None for token in tokens[:-1])


async def test_the_same_seed_gives_the_same_text_and_another_seed_another(language_model: LanguageModel) -> None:
    texts = [
        [token.word for token in await generate(language_model, TEXT, seed=seed, max_tokens=20)]
        for seed in (7, 7, 8, 9)
    ]
    assert texts[0] == texts[1]
    assert len({tuple(text) for text in texts}) > 1


async def test_a_seed_that_was_drawn_is_told_and_repeats_the_text(language_model: LanguageModel) -> None:
    drawn = await generate(language_model, TEXT, max_tokens=15)
    again = await generate(language_model, TEXT, max_tokens=15, seed=drawn[-1].seed)
    assert [token.word for token in again] == [token.word for token in drawn]


async def test_generation_stops_at_a_stop_word_and_includes_it(language_model: LanguageModel) -> None:
    words = [token.word for token in await generate(language_model, TEXT, seed=5, max_tokens=40)]
    stop = next(word for word in words[2:] if word)
    tokens = await generate(language_model, TEXT, seed=5, max_tokens=40, stop_words=[stop])
    assert [token.word for token in tokens] == words[: words.index(stop) + 1]
    assert tokens[-1].finish_reason is FinishReason.STOP_WORD


async def test_the_state_after_a_generated_text_continues_it(language_model: LanguageModel) -> None:
    tokens = await generate(language_model, TEXT, temperature=0.0, max_tokens=3, return_state=True)
    assert tokens[-1].finish_reason is FinishReason.LENGTH
    text = " ".join([TEXT, *(token.word for token in tokens)])
    by_state: Prediction = await language_model.predict(Context(state=tokens[-1].state))
    by_text = await language_model.predict(Context(text=text))
    assert_same(by_state.candidates, [(c.word, c.log_prob) for c in by_text.candidates])


async def test_the_state_after_the_end_of_a_text_is_that_before_its_end(language_model: LanguageModel) -> None:
    for seed in range(100):
        tokens = await generate(language_model, TEXT, seed=seed, max_tokens=40, return_state=True)
        if tokens[-1].finish_reason is FinishReason.END_OF_TEXT:
            break
    assert tokens[-1].finish_reason is FinishReason.END_OF_TEXT
    token_ids = [*ids(TEXT)[1:], *(token.token_id for token in tokens[:-1])]
    by_state = await language_model.predict(Context(state=tokens[-1].state))
    by_tokens = await language_model.predict(Context(tokens=token_ids))
    assert_same(by_state.candidates, [(c.word, c.log_prob) for c in by_tokens.candidates])
    assert by_state.usage.tokens_reused == len(token_ids) + 1  # <eos> stands before every text


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (Context(), "text: is not set; send "),
        (Context(tokens=[2, 10_000]), r"tokens: ids\[1\] is 10000"),
        (Context(text="the " * 20_000), "text: has 20,000 tokens, one request may have 16,384 .* which predict gives"),
        (Context(text="x" * 1_100_000), "text: has 1,100,000 characters, one request may have 1,048,576"),
        (Context(text="the", state=b"nonsense"), "state: these 8 bytes are not a state"),
    ],
)
async def test_a_bad_context_is_refused_naming_the_field(
    language_model: LanguageModel, context: Context, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        await language_model.predict(context)
    with pytest.raises(InvalidRequestError, match=message):
        await language_model.score(context)


@pytest.mark.parametrize("context", [Context(text=""), Context(text=" \n "), Context(tokens=[])])
async def test_an_empty_context_is_that_of_the_first_word(
    language_model: LanguageModel, reference: ReferenceModel, context: Context
) -> None:
    prediction = await language_model.predict(context)
    assert_same(prediction.candidates, expected(reference, "", 5))
    best = prediction.candidates[0]
    assert (await language_model.score(Context(text=best.word))).log_prob == pytest.approx(best.log_prob, abs=TOLERANCE)


async def test_a_text_is_generated_from_its_beginning(language_model: LanguageModel) -> None:
    best = (await language_model.predict(Context(text=""))).candidates[0]
    assert (await generate(language_model, "", temperature=0.0, max_tokens=1))[0].word == best.word


@pytest.mark.parametrize("context", [Context(), Context(text=""), Context(tokens=[])])
async def test_nothing_is_not_scored(language_model: LanguageModel, context: Context) -> None:
    with pytest.raises(InvalidRequestError, match=r"text: is (not set|empty); send at least one word to score"):
        await language_model.score(context)


async def test_what_says_nothing_is_told_what_it_may_say(language_model: LanguageModel) -> None:
    with pytest.raises(InvalidRequestError, match="an empty text for the first word of a new one, or a state to conti"):
        await language_model.predict(Context())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens: is 0"),
        ({"max_tokens": 10**6}, "max_tokens: is 1000000"),
        ({"temperature": -1.0}, "temperature: is -1"),
        ({"temperature": float("nan")}, "temperature: is nan"),
        ({"top_k": 0}, "top_k: is 0"),
        ({"top_p": 0.0}, "top_p: is 0"),
        ({"top_p": float("nan")}, "top_p: is nan"),
        ({"stop_words": ["xyzzy"]}, "stop_words: 'xyzzy' is not a word"),
        ({"stop_words": ["the"] * 101}, "stop_words: has 101"),
    ],
)
async def test_a_bad_option_is_refused_naming_the_field(
    language_model: LanguageModel, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        await generate(language_model, TEXT, **options)


async def test_a_held_context_stays_as_it_was_when_a_request_fails(language_model: LanguageModel) -> None:
    held = HeldContext()
    await language_model.predict(Context(text=TEXT), held=held)
    before = held.state
    with pytest.raises(ServingError):
        await language_model.predict(Context(text="you"), held=held, deadline=0.0)
    assert held.state is before


async def test_nothing_waits_after_cancelled_predictions_and_closed_generations(repository: Repository) -> None:
    model = repository.language_model()
    tasks = [asyncio.create_task(model.predict(Context(text=TEXT + " the" * n))) for n in range(50)]
    stream = model.generate(Context(text=TEXT), options=GenerateOptions(max_tokens=1000, seed=1))
    await anext(stream)
    for task in tasks[::2]:
        task.cancel()
    await stream.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, Prediction) for result in results) >= len(tasks[1::2])
    assert await repository.drain(timeout_s=30)
