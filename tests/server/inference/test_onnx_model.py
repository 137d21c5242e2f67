"""Calls of a served ONNX file: good ones, wrong ones, many at once, and sequences."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from hiddenstate_server.errors import (
    DeadlineError,
    InvalidRequestError,
    ModelFailedError,
    OverloadedError,
    SequenceError,
    ShuttingDownError,
)
from hiddenstate_server.inference.onnx_model import OnnxModel
from hiddenstate_server.inference.sequences import OVERHEAD_BYTES
from hiddenstate_server.inference.tensors import SequenceStep, Tensors, TensorSpec
from hiddenstate_server.metrics import Metrics
from onnx_graphs import (
    HIDDEN_SIZE,
    INPUT_SIZE,
    LSTM_CONFIG,
    STRING,
    Floats,
    lstm_in_numpy,
    memory_of_all,
    node,
    port,
    running_sum,
    stateful_lstm,
    tagger,
    times_factor,
    write_graph,
)
from tensor_serving import held, served

SUM_CONFIG = '[[state]]\ninput = "sum"\noutput = "next_sum"\nbatch_axis = 0\n'
STATE_BYTES = 2 * 4 * HIDDEN_SIZE + OVERHEAD_BYTES


@pytest_asyncio.fixture
async def tags(tmp_path: Path) -> AsyncIterator[OnnxModel]:
    async with served(tagger(tmp_path / "tags")) as model:
        yield model


@pytest_asyncio.fixture
async def factor(tmp_path: Path) -> AsyncIterator[OnnxModel]:
    async with served(times_factor(tmp_path / "factor")) as model:
        yield model


@pytest_asyncio.fixture
async def lstm(tmp_path: Path) -> AsyncIterator[OnnxModel]:
    async with served(stateful_lstm(tmp_path / "lstm")) as model:
        yield model


@pytest.fixture(scope="module")
def lstm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stateful_lstm(tmp_path_factory.mktemp("lstm"))


@pytest_asyncio.fixture
async def total(tmp_path: Path) -> AsyncIterator[OnnxModel]:
    async with served(running_sum(tmp_path, config=SUM_CONFIG)) as model:
        yield model


def ids(*shape: int) -> Tensors:
    return {"ids": np.ones(shape, dtype=np.int64)}


def x(*values: float) -> Tensors:
    """Rows of one number each."""
    return {"x": np.array(values, np.float32).reshape(-1, 1)}


def floats(values: Any) -> Floats:
    return np.array(values, np.float32)


def first(id: int | str = 1) -> SequenceStep:
    return SequenceStep(id=id, start=True)


def after(id: int | str = 1, *, end: bool = False) -> SequenceStep:
    return SequenceStep(id=id, end=end)


async def test_ports_are_told_as_the_graph_has_them_and_states_are_not_among_them(
    tags: OnnxModel, lstm: OnnxModel
) -> None:
    assert tags.inputs == (TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),)
    assert tags.outputs == (TensorSpec(name="scores", datatype="FP32", shape=(-1, -1, 2 * HIDDEN_SIZE)),)
    assert lstm.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, -1, INPUT_SIZE)),)
    assert lstm.outputs == (TensorSpec(name="y", datatype="FP32", shape=(-1, -1, HIDDEN_SIZE)),)
    assert (tags.stateful, lstm.stateful) == (False, True)
    assert tags.platform == "onnxruntime_onnx"


async def test_calls_that_wait_together_run_together_as_far_as_their_shapes_agree(tags: OnnxModel) -> None:
    with held() as gate:
        running = asyncio.create_task(tags.infer(ids(1, 1)))
        await gate.wait_entered()
        calls = [asyncio.create_task(tags.infer(ids(rows, length))) for rows, length in [(2, 4), (1, 5), (3, 4)]]
        await asyncio.sleep(0)
        gate.open()
        answers = await asyncio.gather(running, *calls)
    assert gate.rows == [1, 5, 1]
    assert [answer["scores"].shape[:2] for answer in answers] == [(1, 1), (2, 4), (1, 5), (3, 4)]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'ids': is missing; it takes ids"),
        (ids(1, 2) | {"other": np.zeros(1)}, "input 'other': m has none of that name; it takes ids"),
        (ids(1, 2) | {"o" * 999: np.zeros(1)}, f"input '{'o' * 64}': m has none"),
        ({"ids": np.ones((1, 2), np.int32)}, "input 'ids': is int32, INT64 is due"),
        ({"ids": np.ones((1, 2), np.float32)}, "input 'ids': is float32, INT64 is due"),
        ({"ids": np.full((1, 2), b"1", dtype=object)}, "input 'ids': is object, INT64 is due"),
        (ids(2), "input 'ids': has shape [2], [any, any] is due"),
        (ids(1, 2, 3), "input 'ids': has shape [1, 2, 3], [any, any] is due"),
        (ids(), "input 'ids': has shape [], [any, any] is due"),
        (ids(0, 2), "input 'ids': has shape [0, 2], axis 0 is empty"),
        (ids(2, 0), "input 'ids': has shape [2, 0], axis 1 is empty"),
        (ids(129, 1), "inputs: have 129 rows, m takes 128 at a time; send them in several calls"),
        ({"ids": np.array([[1, 20]])}, "inputs: the model cannot be run with their values: indices element out of"),
        ({"ids": np.array([[1, -(2**63)]])}, "inputs: the model cannot be run with their values: indices element out"),
    ],
)
async def test_wrong_inputs_are_refused_in_one_line(tags: OnnxModel, inputs: Tensors, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(message)) as caught:
        await tags.infer(inputs)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert (await tags.infer(ids(1, 2)))["scores"].shape == (1, 2, 10)


async def test_outputs_are_chosen_by_name(lstm: OnnxModel, tags: OnnxModel) -> None:
    assert list(await tags.infer(ids(1, 2), outputs=["scores"])) == ["scores"]
    with pytest.raises(InvalidRequestError, match="output 'other': m has none of that name; it gives scores"):
        await tags.infer(ids(1, 2), outputs=["other"])
    with pytest.raises(InvalidRequestError, match="output 'y_hidden': m has none of that name; it gives y"):
        await lstm.infer({"x": np.zeros((1, 1, 3), np.float32)}, outputs=["y_hidden"], sequence=first())


async def test_rows_share_what_has_no_batch_axis_and_calls_with_another_value_go_alone(factor: OnnxModel) -> None:
    assert factor.inputs[1] == TensorSpec(name="factor", datatype="FP32", shape=(-1,))
    row = np.ones((1, 2), np.float32)
    with held() as gate:
        running = asyncio.create_task(factor.infer({"x": row, "factor": floats([1])}))
        await gate.wait_entered()
        values: list[Any] = [[2.0], 3.0, [2.0], [3.0], 2.0]
        calls = [asyncio.create_task(factor.infer({"x": row, "factor": np.array(each, np.float32)})) for each in values]
        await asyncio.sleep(0)
        gate.open()
        answers = [answer["y"].tolist() for answer in await asyncio.gather(running, *calls)]
    assert answers == [[[each, each]] for each in (1, 2, 3, 2, 3, 2)]
    assert gate.rows == [1, 3, 2]


async def test_rows_of_one_call_have_one_shared_value(factor: OnnxModel) -> None:
    rows = np.ones((2, 2), np.float32)
    answer = await factor.infer({"x": rows, "factor": floats([4, 4])})
    assert answer["y"].tolist() == [[4, 4], [4, 4]]
    with pytest.raises(InvalidRequestError, match="input 'factor': all rows of a call have the same; send rows with"):
        await factor.infer({"x": rows, "factor": floats([4, 5])})
    with pytest.raises(InvalidRequestError, match="input 'factor': all rows of a call have the same"):
        await factor.infer({"x": rows, "factor": np.empty(0, np.float32)})


async def test_axes_of_one_name_have_one_size_and_inputs_one_number_of_rows(tmp_path: Path) -> None:
    folder = write_graph(
        tmp_path,
        [node("Add", ["a", "b"], ["s"]), node("Add", ["s", "c"], ["y"])],
        [port("a", ["batch", "n"]), port("b", ["batch", "n"]), port("c", [None, "n"])],
        [port("y", ["batch", "n"])],
    )

    def inputs(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> Tensors:
        return {name: np.ones(shape, np.float32) for name, shape in zip("abc", (a, b, c), strict=True)}

    async with served(folder) as model:
        with pytest.raises(InvalidRequestError, match="input 'b': axis 1 has 4, axis 1 of 'a' has 3; both are 'n'"):
            await model.infer(inputs((2, 3), (2, 4), (2, 3)))
        with pytest.raises(InvalidRequestError, match="input 'c': has 1 rows, the inputs before it have 2"):
            await model.infer(inputs((2, 3), (2, 3), (1, 3)))


async def test_declared_limits_of_axes_are_kept(tmp_path: Path) -> None:
    config = "[inputs.ids]\nshape = [-1, -1]\nlongest = 5\n"
    async with served(tagger(tmp_path / "a", config=config)) as model:
        await model.infer(ids(7, 5))
        with pytest.raises(
            InvalidRequestError, match=r"'ids': has shape \[1, 6\], axis 1 may have 5; send it in parts"
        ):
            await model.infer(ids(1, 6))
    async with served(tagger(tmp_path / "b", config="[inputs.ids]\nshape = [-1, 4]")) as model:
        assert model.inputs[0].shape == (-1, 4)
        with pytest.raises(InvalidRequestError, match=r"'ids': has shape \[1, 5\], \[any, 4\] is due"):
            await model.infer(ids(1, 5))


async def test_texts_go_in_and_out_as_bytes_and_must_be_utf_8(tmp_path: Path) -> None:
    folder = write_graph(
        tmp_path,
        [node("Identity", ["x"], ["y"])],
        [port("x", ["batch", 2], STRING)],
        [port("y", ["batch", 2], STRING)],
    )
    async with served(folder) as model:
        texts = np.array([["é".encode(), b""]], dtype=object)
        answer = (await model.infer({"x": texts}))["y"]
        assert answer.tolist() == texts.tolist()
        bad = np.array([[b"\xff", b""]], dtype=object)
        good, refused = await asyncio.gather(model.infer({"x": texts}), model.infer({"x": bad}), return_exceptions=True)
        assert isinstance(good, dict)
        assert isinstance(refused, InvalidRequestError)
        assert str(refused) == "inputs: a text is not UTF-8: invalid start byte"


async def test_a_graph_that_fails_by_itself_says_nothing_of_its_inside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_graph(
        tmp_path,
        [node("Add", ["a", "b"], ["y"])],
        [port("a", [None, None]), port("b", [None, None])],
        [port("y", [None, None])],
        config='batching = "off"',
    )
    metrics = Metrics()
    async with served(folder, metrics) as model:
        with pytest.raises(ModelFailedError) as caught:
            await model.infer({"a": np.ones((2, 2), np.float32), "b": np.ones((3, 3), np.float32)})
    assert str(caught.value) == "the model could not be run; the server's log has the reason"
    assert "broadcast" in caplog.text
    assert 'hiddenstate_requests_dropped_total{model="m",reason="failed",version="1"} 1.0' in scrape(metrics)


async def test_expired_and_cancelled_calls_are_not_run(tags: OnnxModel) -> None:
    with held() as gate:
        running = asyncio.create_task(tags.infer(ids(1, 1)))
        await gate.wait_entered()
        expired = asyncio.create_task(tags.infer(ids(1, 1), deadline=time.monotonic()))
        cancelled = asyncio.create_task(tags.infer(ids(1, 1)))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        gate.open()
        with pytest.raises(DeadlineError):
            await expired
        await running
        await tags.drain()
    assert gate.rows == [1]


async def test_what_waits_is_bounded_by_its_size(tmp_path: Path) -> None:
    async with served(tagger(tmp_path), max_waiting_tokens=20) as model:
        with held() as gate:
            running = asyncio.create_task(model.infer(ids(1, 1024)))  # 9 KiB, begun ones included
            await gate.wait_entered()
            with pytest.raises(OverloadedError, match="wait for m have 9 KiB and may have 20; this one has 17"):
                await model.infer(ids(1, 2048))
            gate.open()
            await running
        await model.infer(ids(1, 2048))


async def test_draining_finishes_what_runs_or_waits_for_its_turn_and_refuses_what_comes(total: OnnxModel) -> None:
    await total.infer(x(1), sequence=first())
    with held() as gate:
        steps = [asyncio.create_task(total.infer(x(1), sequence=after())) for _ in range(3)]
        await gate.wait_entered()
        drained = asyncio.create_task(total.drain())
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDownError, match="m is being taken out of service; send the request again"):
            await total.infer(x(1), sequence=after())
        assert not drained.done()
        gate.open()
        answers = await asyncio.gather(*steps)
        await drained
    assert [answer["total"].tolist() for answer in answers] == [[[2]], [[3]], [[4]]]


async def test_statistics_count_calls_runs_and_rows(tags: OnnxModel) -> None:
    await tags.infer(ids(3, 2))
    await tags.infer(ids(1, 2))
    with pytest.raises(InvalidRequestError):
        await tags.infer(ids(0, 2))
    counted = tags.statistics.snapshot()
    assert (counted.inference_count, counted.execution_count) == (4, 2)
    assert (counted.success.count, counted.fail.count, counted.queue.count) == (2, 1, 2)
    assert sorted(counted.batches) == [1, 3]
    assert counted.batches[3].compute_infer.count == 1
    assert 0 < counted.compute.compute_infer.ns < counted.success.ns
    assert counted.last_inference_ms > 1.7e12


# Sequences


def frames(count: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, INPUT_SIZE)).astype(np.float32)


async def run_sequence(model: OnnxModel, id: int | str, inputs: Floats, sizes: list[int]) -> Floats:
    """Sends frames in chunks, each when the one before is answered."""
    answers, begin = [], 0
    for position, size in enumerate(sizes):
        step = SequenceStep(id=id, start=not position, end=position == len(sizes) - 1)
        answer = await model.infer({"x": inputs[np.newaxis, begin : begin + size]}, sequence=step)
        answers.append(answer["y"][0])
        begin += size
    return np.concatenate(answers)


async def test_interleaved_sequences_equal_their_own_loops_and_leave_nothing_behind(lstm: OnnxModel) -> None:
    choose = random.Random(0)
    plans = [[choose.randint(1, 3) for _ in range(choose.randint(1, 12))] for _ in range(40)]
    inputs = [frames(sum(plan), seed) for seed, plan in enumerate(plans)]
    ids: list[int | str] = [seed + 1 if seed % 2 else f"id {seed}" for seed in range(len(plans))]
    with held() as gate:
        running = asyncio.gather(*map(run_sequence, [lstm] * len(plans), ids, inputs, plans))
        await gate.wait_entered()
        gate.open()
        answers = await running
    for plan, own, answer in zip(plans, inputs, answers, strict=True):
        assert len(answer) == sum(plan)
        np.testing.assert_allclose(answer, lstm_in_numpy(own), rtol=0, atol=1e-6)
    assert (lstm.sequences.live, lstm.sequences.bytes) == (0, 0)
    assert (lstm.sequences.started, lstm.sequences.ended) == (40, 40)
    assert max(gate.rows) > 4  # they were batched


async def test_steps_sent_without_waiting_for_answers_keep_their_order(lstm: OnnxModel) -> None:
    inputs = {id: frames(20, id) for id in range(1, 8)}
    calls = [
        lstm.infer(
            {"x": inputs[id][np.newaxis, position : position + 1]},
            sequence=SequenceStep(id=id, start=not position, end=position == 19),
        )
        for position in range(20)
        for id in inputs
    ]
    answers = await asyncio.gather(*calls)
    for offset, (_, own) in enumerate(inputs.items()):
        outputs = np.concatenate([answer["y"][0] for answer in answers[offset :: len(inputs)]])
        np.testing.assert_allclose(outputs, lstm_in_numpy(own), rtol=0, atol=1e-6)
    assert lstm.sequences.bytes == 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=30))
def test_sequences_that_are_interleaved_in_any_way_equal_their_own_loops(
    lstm_folder: Path, plan: list[tuple[int, bool]]
) -> None:
    """The plan says whose step comes next, and whether its answer is waited for before the step after it."""
    inputs = {id: frames(len(plan), id) for id in range(1, 5)}

    async def run() -> dict[int, list[Floats]]:
        async with served(lstm_folder) as model:
            steps: dict[int, list[asyncio.Task[Tensors]]] = {id: [] for id in inputs}
            for id, waits in plan:
                position = len(steps[id])
                call = model.infer(
                    {"x": inputs[id][np.newaxis, position : position + 1]},
                    sequence=SequenceStep(id=id, start=not position),
                )
                steps[id].append(asyncio.create_task(call))
                if waits:
                    await steps[id][-1]
            return {id: [(await step)["y"][0, 0] for step in tasks] for id, tasks in steps.items()}

    for id, answers in asyncio.run(run()).items():
        if answers:
            np.testing.assert_allclose(answers, lstm_in_numpy(inputs[id])[: len(answers)], rtol=0, atol=1e-6)


async def test_callers_who_leave_in_the_middle_leave_no_bytes_and_no_wrong_answers(tmp_path: Path) -> None:
    choose = random.Random(1)
    config = SUM_CONFIG + f"[sequences]\nmax_bytes = {20 * OVERHEAD_BYTES}"
    async with served(running_sum(tmp_path, config=config)) as model:

        async def caller(id: int) -> None:
            expected = 0
            for position in range(12):
                step = SequenceStep(id=id, start=not position, end=position == 11)
                call = asyncio.create_task(model.infer(x(position), sequence=step))
                if choose.random() < 0.2:
                    await asyncio.sleep(0)
                    call.cancel()
                try:
                    answer = await call
                except asyncio.CancelledError:
                    continue  # changes nothing
                except (SequenceError, OverloadedError):
                    return
                expected += position
                assert answer["total"].item() == expected

        await asyncio.gather(*(caller(id) for id in range(1, 61)))
        await model.drain()
        sequences = model.sequences
        kept = list(sequences._live.values())
        assert all(sequence.users == 0 for sequence in kept)
        assert sequences.bytes == sum(sequence.size for sequence in kept) <= 20 * OVERHEAD_BYTES
        assert sequences._idle.keys() == sequences._live.keys()
        assert model._admission._size == 0


async def test_states_are_paired_by_declaration(tmp_path: Path) -> None:
    swapped = LSTM_CONFIG.replace("z_cell", "?").replace("y_hidden", "z_cell").replace("?", "y_hidden")
    own = frames(6, 0)
    async with served(stateful_lstm(tmp_path, config=swapped)) as model:
        answer = await run_sequence(model, 1, own, [3, 3])
    assert np.abs(answer - lstm_in_numpy(own)).max() > 0.01  # what the test of the right pairs would see


@pytest.mark.parametrize("initial", ["0.5", "[[0.5, 0.5, 0.5, 0.5, 0.5]]"])
async def test_a_sequence_starts_from_the_given_value(tmp_path: Path, initial: str) -> None:
    config = LSTM_CONFIG.replace("batch_axis = 1", f"batch_axis = 1\ninitial = {initial}")
    own = frames(6, 0)
    async with served(stateful_lstm(tmp_path, config=config)) as model:
        answer = await run_sequence(model, 1, own, [2, 4])
    np.testing.assert_allclose(answer, lstm_in_numpy(own, hidden=0.5, cell=0.5), rtol=0, atol=1e-6)


async def test_a_sequence_may_have_several_rows_and_keeps_their_number(total: OnnxModel) -> None:
    await total.infer(x(1, 2, 3), sequence=first())
    assert (await total.infer(x(1, 1, 1), sequence=after()))["total"].tolist() == [[2], [3], [4]]
    with pytest.raises(InvalidRequestError, match="inputs: have 1 rows, the sequence was begun with 3; send as many"):
        await total.infer(x(1), sequence=after())
    assert (await total.infer(x(0, 0, 0), sequence=after(end=True)))["total"].tolist() == [[2], [3], [4]]


@pytest.mark.parametrize(
    ("inputs", "step", "error", "message"),
    [
        (x(1), None, InvalidRequestError, "sequence_id: is missing; m keeps a state, so name a sequence and begin"),
        (x(1), after(9), SequenceError, "sequence_id: sequence 9 is not known here; begin it with sequence_start"),
        (x(1), after("a\nb"), SequenceError, r"sequence_id: sequence 'a\nb' is not known here"),
        (x(1), first(0), InvalidRequestError, "sequence_id: is 0, which stands for none"),
        (x(1) | {"sum": np.zeros((1, 1), np.float32)}, first(9), InvalidRequestError, "input 'sum': is a state, which"),
        (x(1) | {"next_sum": np.zeros((1, 1))}, first(9), InvalidRequestError, "input 'next_sum': m has none of that"),
        ({}, first(9), InvalidRequestError, "input 'x': is missing; it takes x"),
    ],
)
async def test_wrong_steps_are_refused_in_one_line_and_hold_nothing(
    total: OnnxModel, inputs: Tensors, step: SequenceStep | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        await total.infer(inputs, sequence=step)
    assert "\n" not in str(caught.value)
    assert (total.sequences.live, total.sequences.bytes) == (0, 0)


async def test_a_model_without_a_state_ignores_sequences(tags: OnnxModel) -> None:
    await tags.infer(ids(1, 1), sequence=after(5))
    assert tags.sequences.live == 0


async def test_a_step_whose_run_fails_leaves_the_sequence_where_it_was(tmp_path: Path) -> None:
    folder = write_graph(
        tmp_path,
        [node("Gather", ["table", "id"], ["row"]), node("Add", ["row", "sum"], ["next"]), node("Neg", ["next"], ["y"])],
        [port("id", ["batch"], 7), port("sum", ["batch", 1])],
        [port("next", ["batch", 1]), port("y", ["batch", 1])],
        {"table": floats([[1], [10], [100]])},
        config='[[state]]\ninput = "sum"\noutput = "next"\nbatch_axis = 0',
    )
    async with served(folder) as model:
        await model.infer({"id": np.array([0])}, sequence=first())
        with pytest.raises(InvalidRequestError, match="indices element out of data bounds"):
            await model.infer({"id": np.array([3])}, sequence=after())
        answer = await model.infer({"id": np.array([1])}, sequence=after(end=True))
        assert answer["y"].tolist() == [[-11]]
        assert model.sequences.bytes == 0


async def test_a_refused_start_does_not_let_later_steps_go_on_with_the_older_sequence(total: OnnxModel) -> None:
    await total.infer(x(1), sequence=first())
    with pytest.raises(InvalidRequestError):
        await total.infer({}, sequence=first())
    with pytest.raises(SequenceError, match="sequence 1 has not begun: its first step was refused"):
        await total.infer(x(1), sequence=after())


async def test_a_graph_of_one_row_without_a_batch_axis_keeps_its_state_too(tmp_path: Path) -> None:
    config = SUM_CONFIG
    async with served(running_sum(tmp_path, config=config, state=(1, 1))) as model:
        assert model.max_batch_size == 0
        await model.infer(x(1), sequence=first())
        assert (await model.infer(x(2), sequence=after()))["total"].tolist() == [[3]]


async def test_a_state_may_grow_and_is_counted_as_it_does(tmp_path: Path) -> None:
    config = (
        '[[state]]\ninput = "past"\noutput = "present"\nbatch_axis = 0\nshape = [-1, 0, 1]\n'
        f"[sequences]\nmax_bytes = {OVERHEAD_BYTES + 12}"
    )
    async with served(memory_of_all(tmp_path, config=config)) as model:
        assert model.max_batch_size == 128
        numbers = floats([[[1], [2]]])
        assert (await model.infer({"x": numbers}, sequence=first()))["total"].tolist() == [[3]]
        assert model.sequences.bytes == OVERHEAD_BYTES + 8
        assert (await model.infer({"x": numbers[:, :1]}, sequence=after()))["total"].tolist() == [[4]]
        with pytest.raises(OverloadedError, match=r"raise sequences\.max_bytes in the model's config\.toml"):
            await model.infer({"x": numbers[:, :1]}, sequence=after())
        assert (await model.infer({"x": numbers}, sequence=after(end=True)))["total"].tolist() == [[7]]
        assert model.sequences.bytes == 0


async def test_a_kept_state_does_not_hold_the_batch_that_it_came_from(lstm: OnnxModel) -> None:
    await asyncio.gather(*(lstm.infer({"x": frames(1, id)[np.newaxis]}, sequence=first(id)) for id in range(1, 30)))
    kept = [array for sequence in lstm.sequences._live.values() for array in (sequence.state or {}).values()]
    assert len(kept) == 58
    assert all(array.base is None and array.nbytes == 4 * HIDDEN_SIZE for array in kept)
    assert lstm.sequences.bytes == 29 * STATE_BYTES


async def test_metrics_tell_of_sequences_until_the_model_is_gone(tmp_path: Path) -> None:
    metrics = Metrics()
    async with served(running_sum(tmp_path, config=SUM_CONFIG), metrics) as model:
        for id in (1, 2, 3):
            await model.infer(x(1), sequence=first(id))
        await model.infer(x(1), sequence=after(2, end=True))
        text = scrape(metrics)
        assert 'hiddenstate_sequences{model="m",version="1"} 2.0' in text
        assert f'hiddenstate_sequence_bytes{{model="m",version="1"}} {2.0 * (4 + OVERHEAD_BYTES)}' in text
        assert 'hiddenstate_sequences_started_total{model="m",version="1"} 3.0' in text
        assert 'hiddenstate_sequences_gone_total{model="m",reason="ended",version="1"} 1.0' in text
        assert 'hiddenstate_batch_size_rows_count{model="m",stage="tensors",version="1"} 4.0' in text


def scrape(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()
