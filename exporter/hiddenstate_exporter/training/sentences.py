"""Sentences to distil on: where they come from, how often each counts, and noisy variants of them."""

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hiddenstate_exporter.training.corpus import CorpusError, read_sources, read_text
from hiddenstate_exporter.training.sentence_encoder_config import SentenceData

MIN_SENTENCES = 20
MIN_WORDS = 3  # of a sentence of running text; shorter ones are headings and debris
MAX_WORDS = 40
MAX_SENTENCE = 1_000_000  # characters; teachers read some thousands, and a tokenizer takes a hundred bytes for each
DROP, SWAP, REPLACE = 0.1, 0.05, 0.15  # of the words of a variant

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"\u201d\u2019']?\s+(?=[\"\u201c\u2018']?[A-Z])")
_COLUMNS = re.compile(r"(?P<path>.+):(?P<columns>\d+(,\d+)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Sentences to train on, with how often each comes in an epoch, and others held out to measure on."""

    train: list[str]
    repeats: list[int]
    held_out: list[str]

    @property
    def checksum(self) -> str:
        """Differs between materials of other sentences or another order."""
        lines = "\n".join([*self.train, "", *self.held_out])
        return hashlib.sha256(lines.encode()).hexdigest()


def collect(data: SentenceData, *, exclude: Iterable[str] = (), seed: int = 0) -> Material:
    """Reads all sources and holds `data.held_out` sentences back, or a tenth of them if there are few.

    The same sources and seed give the same material.

    Sentences in `exclude` (those that the model will be judged on) are left out, as are repetitions.

    Raises:
        CorpusError: a file is missing, is not text or lacks a column, or there are too few sentences.
    """
    rng = random.Random(seed)
    seen = {_key(sentence) for sentence in exclude}
    in_domain = list(_new(_lines(data.in_domain), seen))
    general = list(_new(_lines(data.sentences), seen))
    text = list(_new(_sentences(data.text), seen))
    general += rng.sample(text, min(len(text), data.max_text_sentences))
    total = len(in_domain) + len(general)
    if total < MIN_SENTENCES:
        raise CorpusError(f"{total} different sentences are too few to train on; {MIN_SENTENCES} or more are needed")
    back = set(rng.sample([*in_domain, *general], min(data.held_out, total // 10)))
    in_domain = [sentence for sentence in in_domain if sentence not in back]
    noisy = list(_new(_variants(in_domain, data.variants, rng), seen))
    general = noisy + [sentence for sentence in general if sentence not in back]
    return Material(
        train=in_domain + general,
        repeats=[data.repeat] * len(in_domain) + [1] * len(general),
        held_out=sorted(back),
    )


def split_sentences(paragraph: str) -> list[str]:
    """Splits running text where a sentence ends and a capital follows; good enough to make training sentences."""
    return [sentence.strip(' "“”') for sentence in _SENTENCE_END.split(paragraph)]


def _lines(specs: Iterable[str]) -> Iterator[str]:
    for spec in specs:
        match = _COLUMNS.fullmatch(spec)
        if match is None or Path(spec).exists():
            yield from _bearable(Path(spec), read_text(Path(spec)).split("\n"))
        else:
            yield from _columns(Path(match["path"]), [int(column) for column in match["columns"].split(",")])


def _bearable(path: Path, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_SENTENCE:
            raise CorpusError(
                f"{path}:{number}: has {len(line):,} characters, which is no sentence; give running text with --text"
            )
        yield line


def _columns(path: Path, columns: Sequence[int]) -> Iterator[str]:
    if min(columns) < 1:
        raise CorpusError(f"{path}: column {min(columns)} is asked for; columns are counted from 1")
    for number, line in enumerate(_bearable(path, read_text(path).splitlines()), start=1):
        fields = line.split("\t")
        if max(columns) > len(fields):
            raise CorpusError(f"{path}:{number}: has {len(fields)} tab-separated columns, not {max(columns)}")
        yield from (fields[column - 1] for column in columns)


def _sentences(sources: Sequence[str]) -> Iterator[str]:
    for document in read_sources(sources) if sources else ():
        for paragraph in document.paragraphs:
            for sentence in split_sentences(paragraph):
                if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
                    yield sentence


def _new(sentences: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Yields sentences not met before (but for case and spaces), and takes note of them."""
    for sentence in sentences:
        key = _key(sentence)
        if key and key not in seen:
            seen.add(key)
            yield sentence.strip()


def _key(sentence: str) -> str:
    return " ".join(sentence.casefold().split())


def _variants(sentences: Sequence[str], count: int, rng: random.Random) -> Iterator[str]:
    """Yields `count` noisy copies of each sentence.

    The teacher says what each means, so they need not make sense: they teach how much each word changes.
    """
    words = [word for sentence in sentences for word in sentence.split()]
    for sentence in sentences:
        for _ in range(count):
            yield " ".join(_noisy(sentence.split(), words, rng))


def _noisy(sentence: list[str], words: Sequence[str], rng: random.Random) -> Iterator[str]:
    for i, word in enumerate(sentence):
        chance = rng.random()
        if chance < DROP and len(sentence) > 1:
            continue
        if chance < DROP + SWAP:
            yield rng.choice(sentence[max(i - 1, 0) : i + 2])
        else:
            yield rng.choice(words) if chance < DROP + SWAP + REPLACE else word
