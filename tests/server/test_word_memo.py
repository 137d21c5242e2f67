"""Tokens of words that came before: the same as the tokenizer gives for the whole text, or no memo at all."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import BPE, WordLevel, WordPiece
from tokenizers.processors import TemplateProcessing

from hiddenstate_exporter.training.vocabulary import PRE_TOKENIZERS, REPLACEMENTS
from hiddenstate_server.tokenizer import LONG_TEXT, Tokenizer
from hiddenstate_server.word_memo import WordMemo, takes_word_by_word

ROOT = Path(__file__).parents[2]
# What tokenizers treat in their own ways: marks that join what is before them, other spaces, signs, capitals, digits.
PIECES = [
    "the",
    "Car",
    "car's",
    "I",
    "İ",
    "ΣΑΣ",
    "é",
    "e\u0301",
    "\u0301",
    "1st",
    "2",
    "3nd.",
    "--",
    "...",
    "…",
    "“a”",
    "\u2018",
    "\t",
    "\n",
]
PIECES += [
    "\u00a0",
    "\u2003",
    "\u200b",
    "<eos>",
    "<unk>",
    "x<eos>y",
    "[CLS]",
    "中文",
    "\U0001f600",
    "don't",
    "well-known",
    "¨",
    "ﬁ",
    "\x00",
    "",
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=12).map(" ".join)


def word_level() -> HuggingFaceTokenizer:
    """Returns a tokenizer of whole words, without anything around its vocabulary."""
    words = ["<eos>", "<unk>", "the", "car", "'", "s", "1", "2", "-", ".", "a", "e", "é", "i", "don't"]
    tokenizer = HuggingFaceTokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<eos>", "<unk>"])
    return tokenizer


def as_trained() -> HuggingFaceTokenizer:
    """Returns a tokenizer as the exporter makes them of texts."""
    tokenizer = word_level()
    replaced = [normalizers.Replace(Regex(pattern), to) for pattern, to in REPLACEMENTS]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *replaced])
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["words"]
    return tokenizer


def of_bert() -> HuggingFaceTokenizer:
    """Returns a tokenizer of parts of words with marks around each text."""
    parts = ["[UNK]", "[CLS]", "[SEP]", "the", "car", "##s", "c", "##a", "##r", "'", ".", "-", "e", "1", "2", "##t"]
    tokenizer = HuggingFaceTokenizer(WordPiece({part: number for number, part in enumerate(parts)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return tokenizer


def of_pairs() -> HuggingFaceTokenizer:
    """Returns a tokenizer of pairs of bytes behind several splits."""
    vocabulary = {
        token: number for number, token in enumerate(["<unk>", "t", "h", "e", "th", "the", "c", "a", "r", "1"])
    }
    tokenizer = HuggingFaceTokenizer(BPE(vocabulary, [("t", "h"), ("th", "e")], unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return tokenizer


WORD_WISE: list[Callable[[], HuggingFaceTokenizer]] = [as_trained, of_bert, of_pairs]


def described(tokenizer: HuggingFaceTokenizer) -> dict[str, Any]:
    """Returns what the tokenizer's file would say."""
    description: dict[str, Any] = json.loads(tokenizer.to_str())
    return description


@pytest.mark.parametrize("make", WORD_WISE)
@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
def test_words_give_what_the_whole_text_gives(make: Callable[[], HuggingFaceTokenizer], texts: list[str]) -> None:
    assert takes_word_by_word(described(make()))
    expected = [encoding.ids for encoding in make().encode_batch_fast(texts)]
    tokenizer = Tokenizer(make())
    assert tokenizer.encode_batch(texts) == expected
    assert tokenizer.encode_batch(texts) == expected  # now that the words are known


@pytest.mark.parametrize("path", sorted(ROOT.glob("models/*/*/tokenizer.json")), ids=lambda path: path.parts[-3])
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_the_shipped_tokenizers_take_texts_word_by_word(path: Path, text: str) -> None:
    whole, ours = shipped(path)
    assert takes_word_by_word(described(whole))
    assert ours.encode_batch([text]) == [whole.encode(text).ids]


@lru_cache
def shipped(path: Path) -> tuple[HuggingFaceTokenizer, Tokenizer]:
    """Returns the library's tokenizer and the server's."""
    return HuggingFaceTokenizer.from_file(str(path)), Tokenizer.from_file(path)


def changed(**parts: Any) -> HuggingFaceTokenizer:
    """Returns a tokenizer with parts of its own."""
    tokenizer = as_trained()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def split(pattern: str, behavior: str = "removed", *, invert: bool = True) -> Any:
    """Returns a pre-tokenizer."""
    return pre_tokenizers.Split(Regex(pattern), behavior, invert=invert)


@pytest.mark.parametrize(
    "tokenizer",
    [
        changed(pre_tokenizer=None),
        changed(pre_tokenizer=split(r"\w+ \w+")),
        changed(pre_tokenizer=split(r"\W+")),
        changed(pre_tokenizer=split(r"[^\w]+")),
        changed(pre_tokenizer=split(r".+")),
        changed(pre_tokenizer=split(r"\w+(?=\s)")),
        changed(pre_tokenizer=split(r"^\w+")),
        changed(pre_tokenizer=split(r"[!\s]+")),
        changed(pre_tokenizer=split(r"\p{Space}|\w+")),
        changed(pre_tokenizer=split(r"[^\s&&\w]+")),
        changed(pre_tokenizer=split(r"[\x00-z]+")),
        changed(pre_tokenizer=split(r"\s+", invert=False)),
        changed(pre_tokenizer=split(r"\w+", "isolated")),
        changed(pre_tokenizer=pre_tokenizers.Metaspace()),
        changed(pre_tokenizer=pre_tokenizers.ByteLevel()),
        changed(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.WhitespaceSplit()])),
        changed(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])),
        changed(normalizer=normalizers.Strip()),
        changed(normalizer=normalizers.Replace(" the", "x")),
        changed(normalizer=normalizers.Replace(Regex(r"\s+"), "_")),
        changed(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("_")])),
        changed(normalizer=normalizers.Replace("", "x")),
        changed(normalizer=normalizers.Replace(Regex("b*"), "x")),
        changed(normalizer=normalizers.Replace(Regex("a|"), "x")),
        changed(normalizer=normalizers.Replace(Regex(r"\b"), "x")),
        changed(post_processor=TemplateProcessing(single="$A $A", special_tokens=[])),
        changed(model=BPE({"a": 0, "<unk>": 1}, [], unk_token="<unk>", dropout=0.1)),
    ],
)  # fmt: skip
def test_what_may_look_beyond_a_word_has_no_memo(tokenizer: HuggingFaceTokenizer) -> None:
    assert not takes_word_by_word(described(tokenizer))


PLAIN = {"normalized": False}


@pytest.mark.parametrize("options", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}])
def test_added_tokens_that_look_around_them_or_are_changed_have_no_memo(options: dict[str, bool]) -> None:
    tokenizer = as_trained()
    tokenizer.add_tokens([AddedToken("new", **PLAIN)])
    assert takes_word_by_word(described(tokenizer))
    tokenizer.add_tokens([AddedToken("york", **{**PLAIN, **options})])
    assert not takes_word_by_word(described(tokenizer))


@pytest.mark.parametrize("content", ["new york", "new\tyork", "new\u00a0york"])
def test_an_added_token_of_two_words_has_no_memo(content: str) -> None:
    tokenizer = as_trained()
    tokenizer.add_tokens([AddedToken(content, **PLAIN)])
    assert not takes_word_by_word(described(tokenizer))
    text = f"the {content} car"
    assert Tokenizer(tokenizer).encode_batch([text]) == [tokenizer.encode(text).ids]


def test_a_word_is_asked_for_once_and_old_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiddenstate_server.word_memo._KEPT", 2)
    asked: list[str] = []

    def ask(word: str) -> list[int]:
        asked.append(word)
        return [len(word)]

    memo = WordMemo(ask, [100], [101, 102])
    assert memo.encode("a bb a") == [100, 1, 2, 1, 101, 102]
    assert memo.encode("bb  a") == [
        100,
        2,
        0,
        1,
        101,
        102,
    ]  # nothing lies between two spaces, and that is asked for too
    assert asked == ["a", "bb", ""]
    memo.encode("a bb")  # those used last stay
    assert asked == ["a", "bb", ""]
    memo.encode("ccc dddd eeeee")
    memo.encode("a")
    assert asked[3:] == ["ccc", "dddd", "eeeee", "a"]


def test_long_words_are_not_kept() -> None:
    asked: list[str] = []

    def ask(word: str) -> list[int]:
        asked.append(word)
        return [1]

    memo = WordMemo(ask, [], [])
    for _ in range(2):
        memo.encode("x" * 48)
        memo.encode("y" * 49)
    assert asked == ["x" * 48, "y" * 49, "y" * 49]


def test_words_of_many_tokens_are_not_kept() -> None:
    asked: list[str] = []

    def ask(word: str) -> list[int]:
        asked.append(word)
        return [1000 + number for number in range(len(word))]

    memo = WordMemo(ask, [], [])
    for _ in range(2):
        memo.encode("x" * 8)
        memo.encode("y" * 9)
    assert asked == ["x" * 8, "y" * 9, "y" * 9]


def test_a_long_text_is_not_taken_word_by_word() -> None:
    def fail(word: str) -> list[int]:
        raise AssertionError(word)

    tokenizer = Tokenizer(as_trained())
    tokenizer._memo = WordMemo(fail, [], [])
    with pytest.raises(AssertionError):
        tokenizer.encode_batch(["the car " * (LONG_TEXT // 8)])
    assert len(tokenizer.encode_batch(["the car"] * (16 * LONG_TEXT // 7 + 1))) == 16 * LONG_TEXT // 7 + 1
    assert len(tokenizer.encode_batch(["the car " * (LONG_TEXT // 8) + "."])[0]) == 2 * (LONG_TEXT // 8) + 1
