"""Top-k as ONNX nodes against numpy, and the words that a head picks with and without a range of ranks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.graph import write_models
from hiddenstate_exporter.graphs.graph_builder import FLOAT, INT64, GraphBuilder, array_info
from hiddenstate_exporter.graphs.language_model_graph import head_graph
from hiddenstate_exporter.graphs.top_k_graph import top_k
from hiddenstate_exporter.graphs.weights import WeightsError, WeightsFile
from hiddenstate_exporter.publishing.onnx_model import open_session

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Run = Callable[[Floats, int], tuple[Floats, Ids]]

WIDTHS = (1, 700, 15_999, 16_000, 16_001, 16_128)  # short of what is grouped; divisible, prime, divisible by 96
ROWS = 5


def _session(folder: Path, width: int) -> onnxruntime.InferenceSession:
    file = WeightsFile()
    builder = GraphBuilder("top_k", file, "float32")
    for value, name in zip(top_k(builder, "x", width), ("values", "indices"), strict=True):
        builder.name_output(value, name)
    model = builder.model(
        inputs=[array_info("x", FLOAT, ["rows", width]), array_info("k", INT64, [1])],
        outputs=[array_info("values", FLOAT, ["rows", "k"]), array_info("indices", INT64, ["rows", "k"])],
    )
    return open_session(folder / write_models(folder, {"top_k": model}, file)["top_k"])


@pytest.fixture(scope="module", params=WIDTHS)
def grouped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Run]:
    session = _session(tmp_path_factory.mktemp("top_k"), request.param)
    return request.param, lambda x, k: session.run(None, {"x": x, "k": np.array([k])})


def _expected(x: Floats, k: int) -> tuple[Floats, Ids]:
    indices = np.argsort(-x, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(x, indices, axis=1), indices


def _rows(kind: str, width: int) -> Floats:
    rng = np.random.default_rng(width)
    x = rng.normal(size=(ROWS, width)).astype(np.float32)
    match kind:
        case "ties":
            return np.round(x)
        case "equal":
            return np.zeros_like(x)
        case "ascending":  # the largest all lie in the last groups
            return np.sort(x, axis=1)
        case "few":  # as the prefix leaves them
            return np.where(rng.random(x.shape) < 3 / width, x, np.float32(-np.inf))
        case "none":
            return np.full_like(x, -np.inf)
    return x


@pytest.mark.parametrize("kind", ["different", "ties", "equal", "ascending", "few", "none"])
def test_top_k_is_that_of_the_whole_row_with_the_lowest_index_first(grouped: tuple[int, Run], kind: str) -> None:
    width, run = grouped
    x = _rows(kind, width)
    for k in sorted({1, 2, 7, 32, 33, 150, width - 1, width} & set(range(1, width + 1))):
        values, indices = run(x, k)
        expected_values, expected_indices = _expected(x, k)
        np.testing.assert_array_equal(indices, expected_indices)
        assert values.tobytes() == expected_values.tobytes()


def test_top_k_of_no_rows_is_empty(grouped: tuple[int, Run]) -> None:
    width, run = grouped
    values, indices = run(np.zeros((0, width), np.float32), 1)
    assert values.shape == indices.shape == (0, 1)


VOCAB_SIZE = 16_001
SPECIALS = 3
LOWS_AND_HIGHS = [
    (-1, VOCAB_SIZE),
    (0, VOCAB_SIZE),
    (0, 0),
    (0, 1),
    (500, 503),
    (9_000, 15_998),
    (15_997, 15_998),
    (40, 30),
    (-7, -1),
    (VOCAB_SIZE, 2 * VOCAB_SIZE),
    (-(2**63), 2**63 - 1),
    (2**63 - 1, -(2**63)),
]


@pytest.fixture(scope="module")
def ranks() -> Ids:
    order = np.random.default_rng(0).permutation(VOCAB_SIZE - SPECIALS)
    return np.concatenate([np.full(SPECIALS, -1), order])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, ranks: Ids) -> onnxruntime.InferenceSession:
    """A head whose log probabilities have ties: every word stands in the vocabulary twice."""
    rng, folder, file = np.random.default_rng(1), tmp_path_factory.mktemp("head"), WeightsFile()
    half = rng.normal(size=(VOCAB_SIZE // 2 + 1, 4)).astype(np.float32)
    matrix = np.concatenate([half, half])[:VOCAB_SIZE]
    weights = {"embedding.weight": matrix, "decoder.weight": matrix, "decoder.bias": np.zeros(VOCAB_SIZE, np.float32)}
    model = head_graph(GraphBuilder("head", file, "float32"), weights, ranks, 4)
    return open_session(folder / write_models(folder, {"head": model}, file)["head"])


def _ask(head: onnxruntime.InferenceSession, hidden: Floats, k: int, ranges: Ids | None) -> tuple[Floats, Ids]:
    low, high = np.zeros((2, len(hidden)), np.int64) if ranges is None else ranges.T
    feed = {
        "hidden": hidden,
        "k": np.array([k]),
        "targets": np.zeros(len(hidden), np.int64),
        "restrict": np.array(ranges is not None),
        "rank_low": np.ascontiguousarray(low),
        "rank_high": np.ascontiguousarray(high),
    }
    log_probs, ids = head.run(["top_log_probs", "top_ids"], feed)
    return log_probs, ids


@pytest.mark.parametrize("k", [1, 7, 32, 33, VOCAB_SIZE])
def test_words_outside_the_range_of_ranks_are_minus_infinity_whatever_the_range(
    head: onnxruntime.InferenceSession, ranks: Ids, k: int
) -> None:
    ranges = np.array(LOWS_AND_HIGHS, np.int64)
    hidden = np.random.default_rng(2).normal(size=(len(ranges), 4)).astype(np.float32)
    values, ids = _ask(head, hidden, VOCAB_SIZE, None)
    log_probs = np.empty_like(values)
    np.put_along_axis(log_probs, ids, values, axis=1)
    assert len(np.unique(log_probs[0])) < VOCAB_SIZE  # there are ties
    for given, masked in (
        (None, log_probs),
        (ranges, np.where((ranks >= ranges[:, :1]) & (ranks < ranges[:, 1:]), log_probs, np.float32(-np.inf))),
    ):
        expected_values, expected_ids = _expected(masked, k)
        values, ids = _ask(head, hidden, k, given)
        np.testing.assert_array_equal(ids, expected_ids)
        assert values.tobytes() == expected_values.tobytes()


def test_a_vocabulary_whose_ranks_float32_cannot_tell_apart_is_refused() -> None:
    size = 2**23 + 1
    zeros = np.broadcast_to(np.float32(0), (size, 1))
    weights = {"embedding.weight": zeros, "decoder.weight": zeros, "decoder.bias": zeros[:, 0]}
    builder = GraphBuilder("head", WeightsFile(), "float16")
    with pytest.raises(WeightsError, match="vocabulary has 8388609 tokens, 8388608 are allowed"):
        head_graph(builder, weights, np.zeros(size, np.int64), 1)
