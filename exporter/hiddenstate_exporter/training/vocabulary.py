"""Tokenizers: trains a word-level one for language models, and turns text into one stream of ids."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFC, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import PreTokenizer, WhitespaceSplit
from tokenizers.pre_tokenizers import Split as SplitBy
from tokenizers.trainers import WordLevelTrainer

Split = Literal["words", "whitespace"]  # how a text is cut into words

EOS: Final = "<eos>"  # ends a paragraph, and so stands before every first word
UNK: Final = "<unk>"
SMALLEST: Final = 8  # vocabulary that can be asked for

# A word with inner apostrophes and hyphens; a number with its ordinal ending; dashes and dots in a row; one sign.
TOKEN: Final = r"\p{L}[\p{L}\p{M}]*(?:['\-]\p{L}[\p{L}\p{M}]*)*|\d+(?:st|nd|rd|th)\b|\d+|-{2,}|\.{2,}|[^\s]"
# Typographic signs and their typewriter forms become one word each, in training and in serving.
REPLACEMENTS: Final = (("[‘’]", "'"), ("[“”]", '"'), ("[—―]", "--"), ("…", "..."))  # noqa: RUF001


ENCODED: Final = 10_000  # paragraphs at a time

PRE_TOKENIZERS: Final[dict[Split, PreTokenizer]] = {
    "words": SplitBy(Regex(TOKEN), behavior="removed", invert=True),
    "whitespace": WhitespaceSplit(),
}


class VocabularyError(ValueError):
    """A tokenizer cannot be made or read; the message says why."""


def train_word_tokenizer(
    paragraphs: Iterable[str], vocab_size: int, *, fewer: bool = False, split: Split = "words"
) -> Tokenizer:
    """Makes a tokenizer of the `vocab_size - 2` most frequent words (cased), `<eos>` (id 0) and `<unk>` (id 1).

    Ids rise as frequency falls. A text with fewer different words gets a smaller vocabulary where `fewer` allows it. In
    a text that is cut into words already (split "whitespace"), words stay as they are, and may be `<unk>`.

    Raises:
        VocabularyError: the text has fewer different words than asked for.
    """
    tokenizer = _of_words(paragraphs, vocab_size) if split == "whitespace" else _of_text(paragraphs, vocab_size)
    found = tokenizer.get_vocab_size()
    if found < vocab_size and not fewer:
        less = f"make data.vocab_size {found} or less, or give more text"
        raise VocabularyError(
            f"a vocabulary of {vocab_size} is asked for, but the text supports only {found}: "
            + (less if found >= SMALLEST else "give a text of more different words")
        )
    return tokenizer


def _of_text(paragraphs: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(unk_token=UNK))
    tokenizer.normalizer = Normalizers([NFC(), *(Replace(Regex(pattern), to) for pattern, to in REPLACEMENTS)])
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["words"]
    trainer = WordLevelTrainer(vocab_size=vocab_size, special_tokens=[EOS, UNK], show_progress=False)
    tokenizer.train_from_iterator(paragraphs, trainer)
    return tokenizer


def _of_words(paragraphs: Iterable[str], vocab_size: int) -> Tokenizer:
    counts = Counter(word for paragraph in paragraphs for word in paragraph.split())
    words = sorted(counts.keys() - {EOS, UNK}, key=lambda word: (-counts[word], word))
    ids = {word: token_id for token_id, word in enumerate([EOS, UNK, *words][:vocab_size])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS["whitespace"]
    tokenizer.add_special_tokens([EOS, UNK])
    return tokenizer


def encode_stream(
    tokenizer: Tokenizer, paragraphs: Sequence[str], *, bos: int | None = None, eos: int | None = None
) -> NDArray[np.int64]:
    """Returns the ids of all paragraphs in a row, int64 [tokens].

    Each ends with `eos` (by default `<eos>`) and begins with `bos`; where they are the same, it stands there once.
    """
    eos = eos_id(tokenizer) if eos is None else eos
    between = [eos] if bos in (None, eos) else [eos, bos]
    ids = [np.asarray(between[-1:], dtype=np.int64)]
    for start in range(0, len(paragraphs), ENCODED):  # all encodings of a large text would take gigabytes
        for encoding in tokenizer.encode_batch_fast(paragraphs[start : start + ENCODED], add_special_tokens=False):
            ids.append(np.asarray(encoding.ids + between, dtype=np.int64))
    stream = np.concatenate(ids)
    return stream if len(between) == 1 else stream[:-1]


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a `tokenizer.json` of any kind (word-level, WordPiece, BPE).

    Raises:
        VocabularyError: no such file, or not a tokenizer.
    """
    try:
        return tokenizer_from_text(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, VocabularyError) as error:
        raise VocabularyError(f"{path}: {error}") from None


def tokenizer_from_text(text: str) -> Tokenizer:
    """Reads the text of a `tokenizer.json`.

    Raises:
        VocabularyError: not a tokenizer.
    """
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise VocabularyError(f"not a tokenizer: {error}") from None


def eos_id(tokenizer: Tokenizer) -> int:
    """Returns the id of `<eos>`."""
    return token_id(tokenizer, EOS)


def unk_id(tokenizer: Tokenizer) -> int:
    """Returns the id of `<unk>`."""
    return token_id(tokenizer, UNK)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Returns the id of a token.

    Raises:
        VocabularyError: the tokenizer does not know it.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise VocabularyError(f"the tokenizer has no {token}")
    return int(found)
