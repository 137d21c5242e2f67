"""Text to train on: reads sources into documents of paragraphs, and splits them into train, valid and test."""

import importlib.util
import lzma
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PACKAGE_PREFIX: Final = "package:"
SUFFIXES: Final = (".txt", ".txt.xz")

MAX_PARAGRAPH_WORDS: Final = 1000  # longer ones are cut: some texts are one line of a hundred megabytes
MAX_WORD: Final = 10_000  # characters; what is longer is not text

BLOCK_WORDS: Final = 4000  # of consecutive paragraphs that stay together in one split
PERIOD: Final = 40  # one block of 40 is held out for valid, another one for test
VALID_BLOCK: Final = 10  # which of each 40
TEST_BLOCK: Final = 30

_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")  # bytes that no text has many of
_LOOKED_AT, _CONTROLS_ALLOWED = 65_536, 64  # bytes

_BLANK_LINES = re.compile(r"\n[ \t\r]*\n\s*")
_ITALICS = re.compile(r"\b_|_\b")  # plain-text books mark italics as _this_


class CorpusError(ValueError):
    """A source of text cannot be used; the message says which one and why."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text: a book, a speech."""

    name: str
    paragraphs: tuple[str, ...]  # one line each, none empty


@dataclass(frozen=True, slots=True)
class Split:
    """Paragraphs for training, for choosing the best checkpoint, and for the numbers that are published."""

    train: list[str]
    valid: list[str]
    test: list[str]


def read_sources(sources: Sequence[str]) -> list[Document]:
    """Reads text files (.txt, .txt.xz), folders of them, and installed packages that carry them (`package:NAME`).

    Raises:
        CorpusError: a source is missing, is no UTF-8 text, or there is no text at all.
    """
    documents = [_read(path) for source in sources for path in _paths(source)]
    documents = [document for document in documents if document.paragraphs]
    if not documents:
        raise CorpusError(f"no text in {', '.join(sources) or 'nothing'}: every file is empty")
    return documents


def check_sources(sources: Sequence[str]) -> None:
    """Finds the files of sources, and reads none.

    Raises:
        CorpusError: a source is missing.
    """
    for source in sources:
        _paths(source)


def split(documents: Iterable[Document]) -> Split:
    """Deals blocks of consecutive paragraphs out to train, valid and test.

    The same documents, in any order, give the same split. A block never spans two documents. One block of 40 goes to
    valid and another to test, so every large source is represented in all three.

    Raises:
        CorpusError: the text is too short to hold anything out.
    """
    documents = sorted(documents, key=lambda document: (document.name, document.paragraphs))
    words = sum(_count_words(paragraph) for document in documents for paragraph in document.paragraphs)
    block_words = min(BLOCK_WORDS, words // (4 * PERIOD))  # smaller blocks for a small corpus
    parts = Split([], [], [])
    for number, block in enumerate(_blocks(documents, block_words)):
        held_out = {VALID_BLOCK: parts.valid, TEST_BLOCK: parts.test}
        held_out.get(number % PERIOD, parts.train).extend(block)
    if not parts.test:
        raise CorpusError(
            f"too little text: {words} words in {sum(len(d.paragraphs) for d in documents)} paragraphs; "
            f"at least {TEST_BLOCK + 1} paragraphs are needed to hold some out for validation and test"
        )
    return parts


def paragraphs_of(text: str) -> tuple[str, ...]:
    """Cuts a text at blank lines and joins hard-wrapped lines; without blank lines, each line is a paragraph."""
    text = text.replace("\r\n", "\n").strip()
    parts = _BLANK_LINES.split(text) if _BLANK_LINES.search(text) else text.split("\n")
    return tuple(piece for part in parts for piece in _pieces(_ITALICS.sub("", part)))


def read_text(path: Path) -> str:
    """Reads a text file, plain or .xz.

    Raises:
        CorpusError: there is no such file, or it is not UTF-8 text.
    """
    try:
        content = path.read_bytes()
        content = lzma.decompress(content) if path.suffix == ".xz" else content
        if len(_CONTROL.findall(content, 0, _LOOKED_AT)) > _CONTROLS_ALLOWED or b"\0" in content:
            raise CorpusError(f"{path}: is a binary file, not text")
        return content.decode("utf-8-sig")
    except lzma.LZMAError as error:
        raise CorpusError(f"{path}: is not an xz file, or a damaged one: {error}") from None
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: is not UTF-8 text (byte {error.start} is {content[error.start]:#04x}); if it is Latin-1, make it "
            "UTF-8 with: iconv -f LATIN1 -t UTF-8"
        ) from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None


def _paths(source: str) -> list[Path]:
    root = _package_folder(source.removeprefix(PACKAGE_PREFIX)) if source.startswith(PACKAGE_PREFIX) else Path(source)
    if not root.exists():
        raise CorpusError(f"{source}: no such file or folder")
    if root.is_file():
        return [root]
    found = sorted(path for path in root.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())
    if not found:
        raise CorpusError(f"{source}: holds no {' or '.join(SUFFIXES)} file")
    return found


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise CorpusError(f"{PACKAGE_PREFIX}{name}: no such package is installed (pip install {name})")
    return Path(next(iter(spec.submodule_search_locations)))


def _read(path: Path) -> Document:
    try:
        return Document(path.name, paragraphs_of(read_text(path)))
    except _NoWordsError as error:
        raise CorpusError(f"{path}: {error}") from None


class _NoWordsError(ValueError):
    """A text has no words."""


def _pieces(paragraph: str) -> Iterator[str]:
    """Yields a paragraph with single spaces between its words, in pieces of a bearable length.

    The words of one piece at a time: those of a line of a hundred megabytes would take gigabytes.
    """
    for match in re.finditer(rf"\S+(?:\s+\S+){{0,{MAX_PARAGRAPH_WORDS - 1}}}", paragraph):
        words = match[0].split()
        longest = max(map(len, words))
        if longest > MAX_WORD:
            raise _NoWordsError(f"has a word of {longest:,} characters; put spaces or line ends between words")
        yield " ".join(words)


def _blocks(documents: Iterable[Document], block_words: int) -> Iterator[list[str]]:
    for document in documents:
        block: list[str] = []
        words = 0
        for paragraph in document.paragraphs:
            block.append(paragraph)
            words += _count_words(paragraph)
            if words >= block_words:
                yield block
                block, words = [], 0
        if block:
            yield block


def _count_words(paragraph: str) -> int:
    return len(paragraph.split())
