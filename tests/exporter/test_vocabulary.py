"""Tokenizers of words."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from hiddenstate_exporter.training.vocabulary import (
    VocabularyError,
    encode_stream,
    eos_id,
    load_tokenizer,
    tokenizer_from_text,
    train_word_tokenizer,
    unk_id,
)

TEXT = ["The cat saw the dog.", "the dog saw the cat, the end"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("don't stop, well-to-do!", ["don't", "stop", ",", "well-to-do", "!"]),
        ("“I don’t”—she said…", ['"', "I", "don't", '"', "--", "she", "said", "..."]),  # noqa: RUF001
        ("the 19th of May, 1,234.50", ["the", "19th", "of", "May", ",", "1", ",", "234", ".", "50"]),
        ("he--was 'quoted' (twice)", ["he", "--", "was", "'", "quoted", "'", "(", "twice", ")"]),
        ("Größe e\u0301te\u0301", ["Größe", "été"]),
        ("  \n ", []),
    ],
)
def test_text_is_cut_into_words_and_signs(text: str, tokens: list[str]) -> None:
    words = sorted(set(tokens)) or ["word"]
    tokenizer = train_word_tokenizer([" ".join(words)], len(words) + 2)
    assert tokenizer.encode(text).tokens == tokens


def test_ids_rise_as_frequency_falls_after_the_specials() -> None:
    tokenizer = train_word_tokenizer(TEXT, 6)
    assert [tokenizer.id_to_token(i) for i in range(6)] == ["<eos>", "<unk>", "the", "cat", "dog", "saw"]
    assert (eos_id(tokenizer), unk_id(tokenizer)) == (0, 1)


def test_no_word_of_a_stream_is_rarer_than_one_of_a_higher_id() -> None:
    dice = np.random.default_rng(0)
    words = [f"{first}{second}" for first in "abcdefgh" for second in "abcdefgh"]
    text = [" ".join(dice.choice(words, p=dice.dirichlet(np.ones(64)), size=80)) for _ in range(30)]
    tokenizer = train_word_tokenizer(text, 50)  # an adaptive softmax needs ids in this order
    counts = np.bincount(encode_stream(tokenizer, text), minlength=50)
    assert counts[2:].min() > 0
    assert (np.diff(counts[2:]) <= 0).all()


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert train_word_tokenizer(TEXT, 7).to_str() == train_word_tokenizer(list(TEXT), 7).to_str()


def test_a_vocabulary_larger_than_the_text_supports_is_refused_with_the_largest() -> None:
    with pytest.raises(VocabularyError, match=r"supports only 10: make data\.vocab_size 10 or less"):
        train_word_tokenizer(TEXT, 50)
    with pytest.raises(VocabularyError, match="supports only 4: give a text of more different words"):
        train_word_tokenizer(["one two one two"], 50)


def test_a_stream_has_an_end_before_and_after_each_paragraph_and_keeps_case() -> None:
    tokenizer = train_word_tokenizer(TEXT, 6)
    stream = encode_stream(tokenizer, ["The cat", "", "saw the dog"])
    assert stream.dtype == np.int64
    assert stream.tolist() == [0, 1, 3, 0, 0, 5, 2, 4, 0]


def test_a_stream_of_a_model_with_marks_of_its_own_has_them_around_each_paragraph() -> None:
    tokenizer = train_word_tokenizer(TEXT, 6)
    assert encode_stream(tokenizer, ["the cat", "dog"], bos=5, eos=1).tolist() == [5, 2, 3, 1, 5, 4, 1]
    assert encode_stream(tokenizer, ["the cat", "dog"], bos=1, eos=1).tolist() == [1, 2, 3, 1, 4, 1]


def test_a_tokenizer_survives_its_file(tmp_path: Path) -> None:
    tokenizer = train_word_tokenizer(TEXT, 6)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    assert load_tokenizer(path).encode("the cat’s").ids == tokenizer.encode("the cat's").ids  # noqa: RUF001


def test_files_that_are_no_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"gone\.json"):
        load_tokenizer(tmp_path / "gone.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(VocabularyError, match="not a tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(VocabularyError, match="not a tokenizer"):
        tokenizer_from_text("nonsense")


def test_a_tokenizer_without_the_special_tokens_is_refused() -> None:
    from tokenizers.models import WordLevel

    with pytest.raises(VocabularyError, match="has no <eos>"):
        eos_id(Tokenizer(WordLevel({"a": 0}, unk_token="a")))
