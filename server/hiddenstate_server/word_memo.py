"""Token ids of words that come again, for tokenizers that take a text word by word.

Most words of a text came before, and a look in a dictionary costs about a tenth of what the tokenizer takes for them.
That holds only where what becomes of a word does not hang on its neighbours, which `takes_word_by_word` reads off the
tokenizer's own description.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_KEPT = 2**15  # words of a generation, of which there are two: mostly some 250 bytes each, and never above 800
_LONGEST = 48  # characters of a word that is kept
_MOST_IDS = 8  # of such a word

# A regular expression of the tokenizers library that can neither match a space nor look at what lies around its match:
# a space is like the end of the text to it. What is written otherwise may be so too, and is not taken.
_KIND = r"\\p\{[LMNPS][a-z]?\} | \\[wd] | \\[-.+*?|()\[\]{}^$/] | \\u(?!00)[0-9a-fA-F]{4}"  # characters but no space
_IN_BRACKETS = rf"(?:{_KIND} | [^\\\[\]&\x00-\x20])*"
_BLIND_TO_SPACES = re.compile(
    rf"""(?:
      \(\?: | \((?!\?) | [)|*+?] | \{{\d{{0,4}},?\d{{0,4}}\}}  # groups, alternatives, repetition
    | {_KIND} | \\[SbB] | [^\\\[\](){{}}|*+?.^$\x00-\x20]
    | \[\^ {_IN_BRACKETS} \\s {_IN_BRACKETS} \]
    | \[(?!\^) {_IN_BRACKETS} \]
    )*""",
    re.VERBOSE,
)
_MAY_MATCH_NOTHING = re.compile(r"[*?{|()]|\\[bB]")
_NORMALIZERS = frozenset(("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"))
_SPLIT_AT_SPACES = frozenset(("WhitespaceSplit", "Whitespace", "BertPreTokenizer"))
_SPLIT_FURTHER = frozenset(("Punctuation", "Digits", "Split", *_SPLIT_AT_SPACES))


class WordMemo:
    """The words of one tokenizer. Threads may share it."""

    __slots__ = ("_ask", "_before", "_behind", "_older", "_recent")

    def __init__(self, ask: Callable[[str], Sequence[int]], before: list[int], behind: list[int]) -> None:
        """`ask` gives the ids of a word that is new; `before` and `behind` are the marks around each text."""
        self._ask = ask
        self._before = before
        self._behind = behind
        self._recent: dict[str, tuple[int, ...]] = {}
        self._older: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, [seq]."""
        ids = self._before.copy()
        recent = self._recent
        for word in text.split(" "):
            found = recent.get(word)
            ids += self._find(word) if found is None else found
        ids += self._behind
        return ids

    def _find(self, word: str) -> tuple[int, ...]:
        found = self._older.get(word)
        if found is None:
            found = tuple(self._ask(word))
            if len(word) > _LONGEST or len(found) > _MOST_IDS:
                return found
        if len(self._recent) >= _KEPT:
            self._older, self._recent = self._recent, {}
        self._recent[word] = found
        return found


def takes_word_by_word(described: Mapping[str, Any]) -> bool:
    """Tells whether a text's tokens are those of what lies between its spaces, one after the other.

    `described` is a tokenizer as its `tokenizer.json` describes it. False where that is not certain.
    """
    return (
        all(map(_is_within_words, described["added_tokens"]))
        and all(map(_normalizes_words, _parts(described["normalizer"], "normalizers")))
        and _splits_at_spaces(_parts(described["pre_tokenizer"], "pretokenizers"))
        and all(map(_only_puts_marks, _parts(described["post_processor"], "processors")))
        and not described["model"].get("dropout")
    )


def _parts(component: Mapping[str, Any] | None, several: str) -> list[Mapping[str, Any]]:
    """Returns the components of one that may be a sequence."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    return [part for each in component[several] for part in _parts(each, several)]


def _is_within_words(added: Mapping[str, Any]) -> bool:
    """Tells whether an added token is found as it is written, without spaces and without a look around it."""
    looks_around = added["lstrip"] or added["rstrip"] or added["single_word"]
    return added["content"].split() == [added["content"]] and not (looks_around or added["normalized"])


def _normalizes_words(part: Mapping[str, Any]) -> bool:
    if part["type"] != "Replace":
        return part["type"] in _NORMALIZERS
    pattern = part["pattern"]
    # What matches nothing matches between two spaces too.
    return _is_blind(pattern) and not _MAY_MATCH_NOTHING.search(pattern.get("Regex", "")) and "" not in pattern.values()


def _only_puts_marks(part: Mapping[str, Any]) -> bool:
    if part["type"] != "TemplateProcessing":
        return bool(part["type"] == "BertProcessing")
    texts = [piece["Sequence"]["id"] for piece in part["single"] if "Sequence" in piece]
    return texts == ["A"]


def _splits_at_spaces(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Tells whether the first part drops all spaces, and the others look at one piece at a time."""
    if not parts:
        return False
    first, others = parts[0], parts[1:]
    if first["type"] == "Split":
        drops = first["behavior"] == "Removed" and first["invert"] and _is_blind(first["pattern"])
    else:
        drops = first["type"] in _SPLIT_AT_SPACES
    return drops and all(part["type"] in _SPLIT_FURTHER for part in others)


def _is_blind(pattern: Mapping[str, str]) -> bool:
    if "String" in pattern:
        return " " not in pattern["String"]
    return _BLIND_TO_SPACES.fullmatch(pattern["Regex"]) is not None
