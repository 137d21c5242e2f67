"""Tokenizers of models from elsewhere."""

from pathlib import Path
from typing import Any

import pytest

from hiddenstate_exporter.foreign.description import (
    Description,
    DescriptionError,
    LanguageModelDescription,
    SentenceEncoderDescription,
    WordList,
)
from hiddenstate_exporter.foreign.word_list import make_tokenizer
from hiddenstate_exporter.training.vocabulary import VocabularyError

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "the", "The", "cat", "don't", "."]


def _language_model(**fields: Any) -> LanguageModelDescription:
    common = {"cell": "lstm", "embedding": "embedding", "rnn": "rnn", "decoder": "decoder", "eos": "</s>"}
    return LanguageModelDescription(**{**common, **fields})


def _encoder(**fields: Any) -> SentenceEncoderDescription:
    common = {"cell": "lstm", "embedding": "embedding", "rnn": "rnn", "pooling": "mean"}
    return SentenceEncoderDescription(**{**common, **fields})


def _ids(description: Description, text: str, folder: Path = Path()) -> list[int]:
    return list(make_tokenizer(description, folder).encode(text).ids)


@pytest.mark.parametrize(
    ("split", "text", "ids"),
    [
        ("words", "The cat, don't.", [5, 6, 1, 7, 8]),
        ("whitespace", "The cat. don't .", [5, 1, 7, 8]),
        ("whitespace", "the cat </s>", [4, 6, 3]),
    ],
)
def test_text_is_cut_as_asked_for(split: Any, text: str, ids: list[int]) -> None:
    assert _ids(_language_model(vocabulary=WordList(words=WORDS, split=split)), text) == ids


def test_characters_are_words_too_blanks_and_line_ends_among_them() -> None:
    words = ["<unk>", "</s>", "a", "b", " ", "\n"]
    description = _language_model(vocabulary=WordList(words=words, split="characters"))
    assert _ids(description, "ab a\nc</s>") == [2, 3, 4, 2, 5, 0, 1]


def test_text_is_lowered_where_the_model_knows_no_capitals() -> None:
    assert _ids(_language_model(vocabulary=WordList(words=WORDS, lowercase=True)), "THE Cat") == [4, 6]


@pytest.mark.parametrize("text", ["\n".join(WORDS), "\n".join(WORDS) + "\n", "\ufeff" + "\n".join(WORDS)])
def test_the_lines_of_a_file_are_the_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "words.txt").write_text(text, encoding="utf-8")
    tokenizer = make_tokenizer(_language_model(vocabulary=WordList(words="words.txt")), tmp_path)
    assert tokenizer.get_vocab() == {word: token_id for token_id, word in enumerate(WORDS)}


def test_lines_may_end_as_on_windows_and_words_may_hold_other_ends_of_lines(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes("<unk>\r\n</s>\r\na\u2028b\r\n \r\n".encode())
    tokenizer = make_tokenizer(_language_model(vocabulary=WordList(words="words.txt")), tmp_path)
    assert tokenizer.get_vocab() == {"<unk>": 0, "</s>": 1, "a\u2028b": 2, " ": 3}


def test_special_words_are_marked_and_no_word_is_added() -> None:
    description = _language_model(vocabulary=WordList(words=WORDS), bos="<s>", special_words=["<pad>"])
    tokenizer = make_tokenizer(description, Path())
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    assert special == {"<pad>", "<unk>", "<s>", "</s>"}
    assert tokenizer.get_vocab_size() == len(WORDS)


def test_an_encoder_has_its_marks_around_every_sentence() -> None:
    words = WordList(words=WORDS)
    assert _ids(_encoder(vocabulary=words, bos="<s>", eos="</s>"), "the cat") == [2, 4, 6, 3]
    assert _ids(_encoder(vocabulary=words, eos="</s>"), "the cat") == [4, 6, 3]
    assert _ids(_encoder(vocabulary=words), "the cat") == [4, 6]


def test_a_language_model_loses_the_marks_that_its_tokenizer_file_puts_around_a_text(tmp_path: Path) -> None:
    with_marks = make_tokenizer(_encoder(vocabulary=WordList(words=WORDS), bos="<s>", eos="</s>"), tmp_path)
    with_marks.save(str(tmp_path / "tokenizer.json"))
    assert _ids(_encoder(tokenizer="tokenizer.json"), "the cat", tmp_path) == [2, 4, 6, 3]
    assert _ids(_language_model(tokenizer="tokenizer.json"), "the cat", tmp_path) == [4, 6]


@pytest.mark.parametrize(
    ("words", "fields", "problem"),
    [
        ([*WORDS, "cat"], {}, "vocabulary: 'cat' is word 7 and word 10"),
        ([*WORDS, "", "dog"], {}, "vocabulary: word 10 of 11 is empty"),
        (WORDS, {"eos": "<eos>"}, "eos: '<eos>' is not in the vocabulary"),
        (WORDS, {"bos": "<bos>"}, "bos: '<bos>' is not in the vocabulary"),
        (WORDS, {"unk": "UNK"}, "unk: 'UNK' is not in the vocabulary"),
        (WORDS, {"special_words": ["<mask>"]}, "special_words: '<mask>' is not in the vocabulary"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_by_word(words: list[str], fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(DescriptionError, match=problem):
        make_tokenizer(_language_model(vocabulary=WordList(words=words), **fields), Path())


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes("<unk>\nGröße\n".encode("latin-1"))
    with pytest.raises(DescriptionError, match=r"words\.txt: is not UTF-8 \(byte 8\)"):
        make_tokenizer(_language_model(vocabulary=WordList(words="words.txt")), tmp_path)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match=r"words\.txt: cannot be read: No such file"):
        make_tokenizer(_language_model(vocabulary=WordList(words="words.txt")), tmp_path)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json"):
        make_tokenizer(_language_model(tokenizer="tokenizer.json"), tmp_path)
