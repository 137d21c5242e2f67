"""Sentences and contexts of benchmark words, from a seed."""

from collections.abc import Sequence

import numpy as np

from benchmarks.bundles import VOCAB_SIZE, words

LENGTH = 20  # words of a sentence where all are equally long
_NATURAL_MEDIAN, _NATURAL_SPREAD, _NATURAL_MAX = 16.0, 0.6, 120  # of a log-normal: like sentences of written English


def sentences(count: int, seed: int) -> list[str]:
    """Returns sentences of 20 words."""
    return texts([LENGTH] * count, seed)


def natural_lengths(count: int, seed: int) -> list[int]:
    """Returns the words of each of some sentences of natural length mix."""
    lengths = np.random.default_rng(seed).lognormal(np.log(_NATURAL_MEDIAN), _NATURAL_SPREAD, count)
    return np.clip(lengths, 2, _NATURAL_MAX).astype(int).tolist()  # type: ignore[no-any-return]


def texts(lengths: Sequence[int], seed: int | tuple[int, ...], vocab_size: int = VOCAB_SIZE) -> list[str]:
    """Returns texts of so many words each."""
    vocabulary = words(vocab_size)
    rng = np.random.default_rng(seed)
    return [" ".join([vocabulary[number] for number in rng.integers(0, len(vocabulary), length)]) for length in lengths]


def distinct_words(part: int, parts: int, seed: int, vocab_size: int) -> list[str]:
    """Returns one part of all words in some order: nobody who is given another part has any of them."""
    vocabulary = words(vocab_size)
    order = np.random.default_rng(seed).permutation(len(vocabulary))
    return [vocabulary[number] for number in order[part % parts :: parts]]
