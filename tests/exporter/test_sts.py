"""Spearman's correlation on pairs of sentences, and files of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hiddenstate_exporter.training.sts import StsError, StsPairs, read_sts, spearman

ANGLES = {"a": 0.0, "b": 0.1, "c": 0.5, "d": 1.2, "e": 2.0}


def encode(sentences: Sequence[str]) -> NDArray[np.float32]:
    """Points where the sentence's angle says, at different lengths: a cosine must not see them."""
    angles = np.array([ANGLES[sentence] for sentence in sentences])
    return np.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1) * (1 + angles[:, None]), np.float32)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([5.0, 4.0, 1.0, 0.5], 1.0),
        ([0.5, 1.0, 4.0, 5.0], -1.0),
        ([4.0, 5.0, 1.0, 0.5], 0.8),  # one swap of neighbours: 1 - 6 * 2 / (4 * 15)
    ],
)
def test_the_correlation_is_of_ranks_of_cosines(scores: list[float], expected: float) -> None:
    assert spearman(encode, StsPairs(["a"] * 4, ["b", "c", "d", "e"], scores)) == pytest.approx(expected)


def line(score: str = "3.2", first: str = "one", second: str = "two") -> str:
    return f"main-captions\tMSRvid\t2012test\t0001\t{score}\t{first}\t{second}"


def test_a_file_of_the_sts_benchmark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sts.csv"
    path.write_text(line() + "\n" + line("5", 'a "quote', " b ") + "\tfurther\tcolumns\n\n", encoding="utf-8")
    assert read_sts(path) == StsPairs(["one", 'a "quote'], ["two", "b"], [3.2, 5.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{line()}\none,two,3\n",
            r"sts\.csv:2: has 1 tab-separated columns, expected 7: genre, file, year, id, score",
        ),
        (line("high"), r"sts\.csv:1: the score \(column 5\) is 'high', not a number"),
        (line("nan"), r"sts\.csv:1: the score \(column 5\) is 'nan', not a number"),
        ("", r"sts\.csv: has 0 pairs; at least two with different scores are needed"),
        (f"{line()}\n{line()}", r"sts\.csv: has 2 pairs; at least two with different scores are needed"),
    ],
)
def test_another_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sts.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StsError, match=message):
        read_sts(path)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StsError, match=r"nowhere\.csv: cannot be read: No such file"):
        read_sts(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StsError, match=r"binary\.csv: cannot be read"):
        read_sts(tmp_path / "binary.csv")
