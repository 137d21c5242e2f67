"""Bound graphs answer what plain runs of the same sessions answer, in whatever order shapes come."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bundles import language_model_bundle
from hiddenstate_server.binding import BoundGraph, BoundLanguageModel, Floats, Ids
from hiddenstate_server.bundle import load_bundle
from hiddenstate_server.head_output import HeadOutput
from hiddenstate_server.providers import CPU, Provider, make_session
from hiddenstate_server.runner import LanguageModelRunner

HEAD_OUTPUTS = ["top_log_probs", "top_ids", "target_log_probs"]
HERE = Provider(name=CPU, reason="test")


class Model:
    """The same two sessions, bound and plain."""

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(folder)
        assert bundle.language_model
        self.vocab_size, self.spec = bundle.vocab_size, bundle.language_model
        graphs = bundle.variants["fp32"].graphs
        self.recurrent = make_session(folder / graphs["recurrent"], HERE, 1)
        self.head = make_session(folder / graphs["head"], HERE, 1)
        self.bound = BoundLanguageModel(self.recurrent, self.head, "cpu", state_size=self.spec.state_size)
        self.rng = np.random.default_rng(3)

    def batch(self, batch_size: int, seq_len: int) -> tuple[Ids, Floats]:
        tokens = self.rng.integers(self.vocab_size, size=(batch_size, seq_len))
        state = self.rng.normal(size=(batch_size, self.spec.state_size)).astype(np.float32)
        return tokens, state

    def plain(self, tokens: Ids, state: Floats) -> tuple[Floats, Floats]:
        lengths = np.full(len(tokens), tokens.shape[1], dtype=np.int32)
        feed = {"tokens": tokens, "lengths": lengths, "state": state}
        outputs, next_state = self.recurrent.run(["outputs", "next_state"], feed)
        return outputs, next_state

    def plain_head(self, hidden: Floats, k: int, targets: Ids | None, ranks: Ids | None) -> list[Any]:
        feed = {
            "hidden": hidden,
            "k": np.array([k]),
            "targets": np.zeros(len(hidden), dtype=np.int64) if targets is None else targets,
            "restrict": np.array(ranks is not None),
            "rank_low": np.zeros(len(hidden), dtype=np.int64) if ranks is None else ranks[:, 0].copy(),
            "rank_high": np.zeros(len(hidden), dtype=np.int64) if ranks is None else ranks[:, 1].copy(),
        }
        answer: list[Any] = self.head.run(HEAD_OUTPUTS, feed)
        return answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_model_bundle(tmp_path_factory.mktemp("models"), num_layers=2)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(folder)


def assert_same(answer: HeadOutput, plain: list[Any]) -> None:
    for name, wanted in zip(HEAD_OUTPUTS, plain, strict=True):
        np.testing.assert_array_equal(getattr(answer, name), wanted)


BATCHES = st.lists(
    st.tuples(
        st.integers(1, 5),  # batch
        st.integers(1, 4),  # seq
        st.integers(1, 6),  # k
        st.booleans(),  # targets
        st.booleans(),  # ranks
        st.booleans(),  # whether the head is asked at all
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(batches=BATCHES)
def test_batches_of_changing_shapes_answer_to_the_bit_what_plain_runs_answer(
    model: Model, batches: list[tuple[int, int, int, bool, bool, bool]]
) -> None:
    for batch_size, seq_len, k, with_targets, with_ranks, asks in batches:
        tokens, state = model.batch(batch_size, seq_len)
        outputs, next_state = model.bound.recur(tokens, state)
        wanted, wanted_state = model.plain(tokens, state)
        np.testing.assert_array_equal(next_state, wanted_state)
        if asks:
            targets = model.rng.integers(model.vocab_size, size=batch_size) if with_targets else None
            ranks = np.array([[1, 7 + row] for row in range(batch_size)]) if with_ranks else None
            answer = model.bound.head(outputs.last(), k=k, targets=targets, ranks=ranks)
            assert_same(answer, model.plain_head(wanted[:, -1], k, targets, ranks))
        np.testing.assert_array_equal(outputs.array(), wanted)


def test_the_last_outputs_stay_where_they_are_if_each_row_has_one_token(model: Model) -> None:
    one, _ = model.bound.recur(*model.batch(3, 1))
    assert one.last() is one
    several, _ = model.bound.recur(*model.batch(3, 2))
    last = several.last()
    assert isinstance(last, np.ndarray)
    np.testing.assert_array_equal(last, several.array()[:, 1])


def test_an_answer_keeps_when_the_graphs_run_again(model: Model) -> None:
    def ask() -> HeadOutput:
        outputs, _ = model.bound.recur(*model.batch(4, 1))
        return model.bound.head(outputs.last(), k=3, targets=None, ranks=None)

    first = ask()
    kept = [getattr(first, name).copy() for name in HEAD_OUTPUTS]
    second = ask()
    assert not np.array_equal(second.top_log_probs, kept[0])
    assert_same(first, kept)


@pytest.mark.parametrize("seq_len", [1, 2])
def test_a_failed_run_leaves_nothing_behind(model: Model, seq_len: int) -> None:
    tokens, state = model.batch(2, seq_len)
    with pytest.raises(Exception, match="indices"):
        model.bound.recur(np.full((2, seq_len), model.vocab_size), state)
    outputs, next_state = model.bound.recur(tokens, state)
    wanted, wanted_state = model.plain(tokens, state)
    np.testing.assert_array_equal(outputs.array(), wanted)
    np.testing.assert_array_equal(next_state, wanted_state)


def test_what_is_bound_is_bound_anew_after_something_else_was(model: Model) -> None:
    _, state = model.batch(3, 1)
    hidden = np.ascontiguousarray(state[:, : model.spec.output_size])
    first = model.bound.head(hidden, k=2, targets=None, ranks=None)
    outputs, _ = model.bound.recur(*model.batch(3, 1))
    other = model.bound.head(outputs.last(), k=2, targets=None, ranks=None)
    again = model.bound.head(hidden, k=2, targets=None, ranks=None)
    assert not np.array_equal(first.top_log_probs, other.top_log_probs)
    np.testing.assert_array_equal(first.top_log_probs, again.top_log_probs)


def test_a_binding_that_fails_is_made_anew(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = model.batch(2, 1), model.batch(3, 1)
    model.bound.recur(*first)
    with monkeypatch.context() as patch:
        patch.setattr(BoundGraph, "put_into", fail)
        with pytest.raises(MemoryError):
            model.bound.recur(*second)
    outputs, next_state = model.bound.recur(*first)
    wanted, wanted_state = model.plain(*first)
    np.testing.assert_array_equal(outputs.array(), wanted)
    np.testing.assert_array_equal(next_state, wanted_state)


def fail(*_: object) -> None:
    raise MemoryError


def test_outputs_of_several_tokens_are_not_taken_for_those_of_the_last(model: Model) -> None:
    outputs, _ = model.bound.recur(*model.batch(2, 3))
    with pytest.raises(AssertionError):
        model.bound.head(outputs, k=2, targets=None, ranks=None)


def test_a_trial_keeps_when_the_next_one_runs(folder: Path) -> None:
    runner = LanguageModelRunner(load_bundle(folder), folder, variant="fp32", provider=HERE, threads=1)
    outputs, next_state, log_probs = runner.trial(3)
    kept = [array.copy() for array in (outputs, next_state, log_probs)]
    runner.recur(np.full((3, 1), 5), np.ones((3, runner.spec.state_size), dtype=np.float32))
    for array, before in zip((outputs, next_state, log_probs), kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_threads_that_share_a_runner_do_not_see_each_others_batches(folder: Path) -> None:
    runner = LanguageModelRunner(load_bundle(folder), folder, variant="fp32", provider=HERE, threads=1)
    model, start = Model(folder), threading.Barrier(4)
    wrong: list[int] = []

    def work(batch_size: int) -> None:
        tokens, state = batches[batch_size - 1]
        wanted, wanted_state = plain[batch_size - 1]
        start.wait()
        for _ in range(200):
            outputs, next_state = runner.recur(tokens, state)
            answer = runner.head(outputs.last(), k=2, targets=None, ranks=None)
            same = np.array_equal(next_state, wanted_state) and np.array_equal(outputs.array(), wanted)
            if not same or len(answer.top_ids) != batch_size:
                wrong.append(batch_size)

    batches = [model.batch(batch_size, 1) for batch_size in range(1, 5)]
    plain = [model.plain(*batch) for batch in batches]
    threads = [threading.Thread(target=work, args=(batch_size,)) for batch_size in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_graph_that_puts_out_more_than_is_due_fails_and_writes_nowhere(model: Model) -> None:
    """Twice the batch of states, as a model might answer once it has been looked at."""
    int64, int32, float32 = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT
    size = model.spec.state_size
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["state", "state"], ["next_state"], axis=0),
            helper.make_node("Unsqueeze", ["state", "one"], ["outputs"]),
            helper.make_node("Identity", ["tokens"], ["t"]),
            helper.make_node("Identity", ["lengths"], ["l"]),
        ],
        "too_much",
        [
            helper.make_tensor_value_info("tokens", int64, ["batch", "seq"]),
            helper.make_tensor_value_info("lengths", int32, ["batch"]),
            helper.make_tensor_value_info("state", float32, ["batch", size]),
        ],
        [
            helper.make_tensor_value_info("outputs", float32, ["batch", 1, size]),
            helper.make_tensor_value_info("next_state", float32, ["more", size]),
            helper.make_tensor_value_info("t", int64, ["batch", "seq"]),
            helper.make_tensor_value_info("l", int32, ["batch"]),
        ],
        [helper.make_tensor("one", int64, [1], [1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.checker.check_model(made)
    recurrent = onnxruntime.InferenceSession(made.SerializeToString(), providers=[CPU])
    bound = BoundLanguageModel(recurrent, model.head, "cpu", state_size=size)
    room = np.full((4, size), 7, dtype=np.float32)
    bound._next_state = room[:2]
    with pytest.raises(Exception, match="shape"):
        bound.recur(*model.batch(2, 1))
    np.testing.assert_array_equal(room, 7)
