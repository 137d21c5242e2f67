"""Text to token ids and back, with Hugging Face `tokenizers`."""

import bisect
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from hiddenstate_server.errors import BundleError, InvalidRequestError
from hiddenstate_server.word_memo import WordMemo, takes_word_by_word

Tokens = tuple[int, ...]

# A text of more characters is given to the tokenizers library whole, which lets other threads run meanwhile, and is
# best given to another thread.
LONG_TEXT = 4_000
_MANY_TEXTS = 16 * LONG_TEXT  # characters of several together, for which the same holds

_SHORT = 32  # characters
_UNKNOWN = "\U00100000 \U0010fffd"  # characters for private use, of which no vocabulary has a word
# Some 400 bytes each. Texts of several words are kept apart: most never come again, and would push the words out.
_WORDS_KEPT = 2**14
_PHRASES_KEPT = 2**12


class Tokenizer:
    """A model's tokenizer. Thread-safe."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.words = _words(tokenizer)
        self.num_marks: int = tokenizer.num_special_tokens_to_add(is_pair=False)  # around each text: [CLS] and [SEP]
        # What is appended to a stream's context is mostly one word, and mostly one that came before.
        self._encode_word = lru_cache(maxsize=_WORDS_KEPT)(self._encode_anew)
        self._encode_phrase = lru_cache(maxsize=_PHRASES_KEPT)(self._encode_anew)
        before, self._end = _marks(tokenizer, self.words) if self.num_marks else ([], [])
        is_certain = len(before) + len(self._end) == self.num_marks
        self._memo: WordMemo | None = None
        if is_certain and takes_word_by_word(json.loads(tokenizer.to_str())):
            self._memo = WordMemo(self._encode_unmarked, before, self._end)

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Loads a `tokenizer.json`.

        Raises:
            BundleError: the file is not a tokenizer.
        """
        try:
            tokenizer = cls(HuggingFaceTokenizer.from_file(str(path)))
        except BaseException as error:
            raise BundleError(f"{path}: is not a tokenizer file: {_reason(error)}") from None
        try:
            tokenizer._encode_whole([_UNKNOWN])
        except InvalidRequestError as error:
            raise BundleError(f"{path}: cannot take every text: {error}") from None
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self.words)

    def encode(self, text: str) -> Tokens:
        """Returns the token ids of a text, [seq]; lets other threads run while it is at a long one.

        Raises:
            InvalidRequestError: the tokenizer cannot take the text.
        """
        if len(text) <= _SHORT:
            return self._encode_phrase(text) if " " in text else self._encode_word(text)
        return tuple(self.encode_batch((text,))[0])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text; lets other threads run while it is at long ones.

        Raises:
            InvalidRequestError: the tokenizer cannot take one of them.
        """
        memo, lengths = self._memo, [len(text) for text in texts]
        if memo is not None and max(lengths, default=0) <= LONG_TEXT and sum(lengths) <= _MANY_TEXTS:
            return [memo.encode(text) for text in texts]
        return self._encode_whole(texts)

    def _encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            # Also a single text, since the library's `encode` keeps the GIL: seconds for a text of megabytes.
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        except BaseException as error:
            raise _refusal(error) from None

    def _encode_anew(self, text: str) -> Tokens:
        try:
            return tuple(self._tokenizer.encode(text).ids)
        except BaseException as error:
            raise _refusal(error) from None

    def _encode_unmarked(self, word: str) -> list[int]:
        try:
            return self._tokenizer.encode(word, add_special_tokens=False).ids
        except BaseException as error:
            raise _refusal(error) from None

    def cut(self, tokens: list[int], limit: int) -> list[int]:
        """Returns at most `limit` of a text's tokens: its beginning, and the marks that end every text."""
        if len(tokens) <= limit:
            return tokens
        return tokens[: limit - len(self._end)] + self._end


class WordIndex:
    """The words that may be candidates, sorted, so that those with a common beginning are neighbours."""

    def __init__(self, words: Sequence[str], special_token_ids: Iterable[int]) -> None:
        special = frozenset(special_token_ids)
        self._sorted = sorted(word for token_id, word in enumerate(words) if token_id not in special)

    def rank_range(self, prefix: str) -> tuple[int, int]:
        """Returns the ranks low..high-1 of the words that begin with `prefix`; equal if there are none."""

        def beginning(word: str) -> str:
            return word[: len(prefix)]

        low = bisect.bisect_left(self._sorted, prefix, key=beginning)
        return low, bisect.bisect_right(self._sorted, prefix, lo=low, key=beginning)


def word_ranks(words: Sequence[str], special_token_ids: Iterable[int]) -> NDArray[np.int64]:
    """Returns each token's rank [vocab_size] among all words sorted by code point, ties by id; -1 for special tokens.

    The exporter puts it into the head graph; `WordIndex` counts the same way.
    """
    special = frozenset(special_token_ids)
    order = sorted((word, token_id) for token_id, word in enumerate(words) if token_id not in special)
    ranks = np.full(len(words), -1, dtype=np.int64)
    ranks[[token_id for _, token_id in order]] = np.arange(len(order))
    return ranks


def _refusal(error: BaseException) -> InvalidRequestError:
    return InvalidRequestError(f"the model's tokenizer cannot take this text: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """Says what went wrong in tokenizers, which raises plain Exception, and what is none where it panics."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    return " ".join(str(error).split())


def _marks(tokenizer: HuggingFaceTokenizer, words: Sequence[str]) -> tuple[list[int], list[int]]:
    """Returns the special tokens before and behind every text, found with any text that has a token; else none."""
    for word in words:
        encoding = tokenizer.encode(word)
        is_mark = encoding.special_tokens_mask
        if 0 in is_mark:
            first, end = is_mark.index(0), len(is_mark) - is_mark[::-1].index(0)
            return encoding.ids[:first], encoding.ids[end:]
    return [], []


def _words(tokenizer: HuggingFaceTokenizer) -> list[str]:
    """Lists the word of each token id; ids must be dense."""
    vocabulary = {token_id: word for word, token_id in tokenizer.get_vocab(with_added_tokens=True).items()}
    if sorted(vocabulary) != list(range(len(vocabulary))):
        raise BundleError(f"token ids are not 0..{len(vocabulary) - 1}")
    return [vocabulary[token_id] for token_id in range(len(vocabulary))]
