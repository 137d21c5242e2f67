"""Writes words as text: where a space stands between two of them."""

from collections.abc import Iterable, Iterator

_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%'\u2026\u2019\u201d")  # ellipsis and closing quotes at the end
_NO_SPACE_AFTER = frozenset("([{$£€\u2018\u201c")  # opening quotes at the end


def join_words(words: Iterable[str], *, after: str = "") -> str:
    """Writes words as text, `after` being the text that comes before them (it is not repeated).

    Punctuation stands where English puts it: "Well", ",", "(", "yes", ")", "!" is "Well, (yes)!".
    """
    return "".join(write_words(words, after=after))


def write_words(words: Iterable[str], *, after: str = "") -> Iterator[str]:
    """Yields each word with the space that it needs before it, as it comes."""
    inside_quotes = after.count('"') % 2 == 1
    previous = after
    glued = not after or after[-1].isspace() or _opens(after[-1], after.count('"') % 2 == 1)
    for word in words:
        closes_quotes = word == '"' and inside_quotes
        spaced = not (glued or closes_quotes or word in _NO_SPACE_BEFORE or _is_dash_pair(previous, word))
        yield f" {word}" if spaced else word
        inside_quotes ^= word == '"'
        glued = _opens(word, inside_quotes)
        previous = word


def _opens(word: str, inside_quotes: bool) -> bool:
    """Tells whether the next word stands right after this one."""
    return word in _NO_SPACE_AFTER or (word == '"' and inside_quotes)


def _is_dash_pair(previous: str, word: str) -> bool:
    return word == "-" and previous.endswith("-")
