"""Sentences and contexts of benchmark words, from a seed."""

from collections.abc import Iterator

import numpy as np

from benchmarks.bundles import words

LENGTH = 20  # words of a sentence where all are equally long
_NATURAL_MEDIAN, _NATURAL_SPREAD, _NATURAL_MAX = 16.0, 0.6, 120  # of a log-normal: like sentences of written English


def sentences(count: int, seed: int) -> list[str]:
    """Returns sentences of 20 words."""
    return list(_texts([LENGTH] * count, seed))


def natural_sentences(count: int, seed: int) -> list[str]:
    """Returns sentences of natural length mix."""
    lengths = np.random.default_rng(seed).lognormal(np.log(_NATURAL_MEDIAN), _NATURAL_SPREAD, count)
    return list(_texts(np.clip(lengths, 2, _NATURAL_MAX).astype(int).tolist(), seed))


def context(num_words: int, seed: int, vocab_size: int) -> str:
    """Returns one text."""
    return next(_texts([num_words], seed, vocab_size))


def _texts(lengths: list[int], seed: int, vocab_size: int = 0) -> Iterator[str]:
    vocabulary = words(vocab_size) if vocab_size else words()
    rng = np.random.default_rng(seed)
    for length in lengths:
        yield " ".join(vocabulary[number] for number in rng.integers(0, len(vocabulary), length))
