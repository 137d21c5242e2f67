"""Calls that go together: none lost, none doubled, and each answered as if it were alone."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiddenstate_server.inference.onnx_config import OnnxConfig
from hiddenstate_server.inference.onnx_runner import OnnxRunner, OnnxStep
from hiddenstate_server.inference.shape_queue import Call, ShapeQueue, fits
from hiddenstate_server.inference.signature import read_signature
from hiddenstate_server.inference.statistics import Statistics
from hiddenstate_server.inference.tensors import Tensors
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.providers import CPU, Provider, make_session
from hiddenstate_server.queue_metrics import Releases
from onnx_graphs import tagger

MAX_BATCH = 6
AXES: dict[str, int | None] = {"x": 0, "state": 1, "shared": None}


def call(size: int, rows: int = 1, shared: float = 0.0, past: int = 2) -> Call:
    inputs: Tensors = {
        "x": np.zeros((rows, size), np.float32),
        "state": np.zeros((past, rows), np.float32),
        "shared": np.array(shared),
    }
    return Call(size=1, inputs=inputs, outputs=["y"], rows=rows, fits=fits(inputs, AXES))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, MAX_BATCH)), max_size=40))
def test_batches_keep_to_their_limit_lose_nothing_and_begin_with_who_waited_longest(
    shapes: list[tuple[int, int]],
) -> None:
    queue, calls = ShapeQueue(max_batch=MAX_BATCH), [call(size, rows) for size, rows in shapes]
    for each in calls:
        queue.put(each)
    waiting = list(calls)
    while batch := queue.take(sharers=1):
        assert batch[0] is waiting[0]
        assert sum(each.rows for each in batch) <= MAX_BATCH
        assert len({each.fits for each in batch}) == 1
        assert batch == [each for each in waiting if each in batch]  # in their order
        waiting = [each for each in waiting if each not in batch]
    assert not waiting


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [([(1, 1)], "all"), ([(1, MAX_BATCH), (1, 1)], "full"), ([(1, 1), (2, 1)], "alike")],
)
def test_the_queue_tells_what_kept_a_batch_from_being_larger(shapes: list[tuple[int, int]], reason: str) -> None:
    releases = Releases.uncounted()
    queue = ShapeQueue(max_batch=MAX_BATCH, releases=releases)
    for size, rows in shapes:
        queue.put(call(size, rows))
    queue.take(sharers=1)
    assert {name: tally.value for name, tally in releases._asdict().items() if tally.value} == {reason: 1}


@given(st.lists(st.integers(1, 3), min_size=1, max_size=10))
def test_without_batching_each_call_goes_by_itself(sizes: list[int]) -> None:
    queue, calls = ShapeQueue(max_batch=0), [call(size) for size in sizes]
    for each in calls:
        queue.put(each)
    assert [queue.take(sharers=1) for _ in calls] == [[each] for each in calls]


def test_calls_fit_whose_shapes_agree_apart_from_the_rows_and_who_share_the_rest() -> None:
    assert call(3).fits == call(3, rows=4).fits
    others = [call(2), call(3, shared=1.0), call(3, past=3)]
    assert len({call(3).fits, *(each.fits for each in others)}) == 4


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> OnnxStep:
    path = tagger(tmp_path_factory.mktemp("tagger")) / "model.onnx"
    session = make_session(path, Provider(name=CPU, reason=""), threads=1)
    signature = read_signature(session.get_inputs(), session.get_outputs(), OnnxConfig())
    runner = OnnxRunner(session, signature)
    return OnnxStep(runner, signature.axes, Statistics(), model="m", version="1", metrics=Metrics())


def run_all(step: OnnxStep, ids: Sequence[np.ndarray], *, max_batch: int) -> list[Call]:
    queue = ShapeQueue(max_batch=max_batch)
    inputs: list[Tensors] = [{"ids": each} for each in ids]
    calls = [
        Call(size=1, inputs=each, outputs=["scores"], rows=len(each["ids"]), fits=fits(each, {"ids": 0}))
        for each in inputs
    ]
    for each in calls:
        queue.put(each)
    while batch := queue.take(sharers=1):
        step(batch)
    return calls


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=12), st.integers(4, 32))
def test_a_row_has_the_same_answer_alone_and_in_any_batch(
    step: OnnxStep, shapes: list[tuple[int, int]], max_batch: int
) -> None:
    random = np.random.default_rng(len(shapes))
    ids = [random.integers(20, size=shape) for shape in shapes]
    together = run_all(step, ids, max_batch=max_batch)
    for each, answered in zip(ids, together, strict=True):
        assert answered.answer["scores"].shape[:2] == each.shape
        for row, scores in zip(each, answered.answer["scores"], strict=True):
            [alone] = run_all(step, [row[np.newaxis]], max_batch=0)
            np.testing.assert_allclose(scores, alone.answer["scores"][0], rtol=0, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_a_call_that_the_model_refuses_does_not_fail_its_neighbours(step: OnnxStep, bad: list[bool]) -> None:
    ids = [np.full((1, 3), 20 if each else 1) for each in bad]
    calls = run_all(step, ids, max_batch=64)
    assert [each.error is not None for each in calls] == bad
    assert all(each.over for each in calls)
    for each in calls:
        assert bool(each.answer) == (each.error is None)
        if each.error:
            assert str(each.error).startswith("inputs: the model cannot be run with their values: indices element out")
