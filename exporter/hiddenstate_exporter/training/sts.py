"""Semantic textual similarity: do cosines of vectors rank pairs of sentences as people do?

The file is that of the STS Benchmark (Cer et al., SemEval 2017): tab-separated, without a header or quoting;
the fifth column is the score (0 to 5), the sixth and seventh are the sentences, further ones are ignored.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SCORE, FIRST, SECOND = 4, 5, 6
LAYOUT = "genre, file, year, id, score, sentence 1, sentence 2"

Encode = Callable[[Sequence[str]], NDArray[np.float32]]  # -> [sentences, dimension]


class StsError(ValueError):
    """A file is not in the form of the STS Benchmark."""


@dataclass(frozen=True, slots=True)
class StsPairs:
    """Pairs of sentences with the similarity that people gave them."""

    first: list[str]
    second: list[str]
    scores: list[float]


def read_sts(path: Path) -> StsPairs:
    """Reads a file of the STS Benchmark.

    Raises:
        StsError: there is no such file, or it has other columns; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StsError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    rows = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if len({score for _, _, score in rows}) < 2:
        raise StsError(f"{path}: has {len(rows)} pairs; at least two with different scores are needed")
    first, second, scores = zip(*rows, strict=True)
    return StsPairs(list(first), list(second), list(scores))


def spearman(encode: Encode, pairs: StsPairs) -> float:
    """Returns Spearman's rank correlation of cosine and score; NaN if all cosines are the same."""
    from scipy.stats import spearmanr

    cosines = (_unit(encode(pairs.first)) * _unit(encode(pairs.second))).sum(axis=1)  # [pairs]
    return float(spearmanr(cosines, pairs.scores).statistic)


def _row(line: str, where: str) -> tuple[str, str, float]:
    fields = line.split("\t")
    if len(fields) <= SECOND:
        raise StsError(f"{where}: has {len(fields)} tab-separated columns, expected {SECOND + 1}: {LAYOUT}")
    try:
        score = float(fields[SCORE])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise StsError(f"{where}: the score (column {SCORE + 1}) is {fields[SCORE]!r}, not a number")
    return fields[FIRST].strip(), fields[SECOND].strip(), score


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.asarray(vectors / norms, np.float32)
