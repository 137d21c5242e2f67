"""Who goes together: both queues lose nothing, double nothing and pass nobody over for ever."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenstate_server.context import Start
from hiddenstate_server.iteration_queue import IterationQueue
from hiddenstate_server.length_queue import LengthQueue
from hiddenstate_server.queue_metrics import Releases
from hiddenstate_server.sentence import Sentence
from hiddenstate_server.sequence import Predicting, Scoring, Sequence

STATE = bytes(4)  # float32
MAX_BATCH, MAX_CHUNK, MAX_TOKENS, MAX_HEAD_ROWS, MAX_BATCH_TOKENS = 4, 8, 32, 10, 100


def predicting(length: int, arrival: int, *, is_bulk: bool = False) -> Predicting:
    start = Start((0,) * length, None, STATE)
    work = Predicting(length, start.tokens, STATE, start, 1, is_bulk=is_bulk)
    work.arrival = arrival
    return work


def scoring(length: int, arrival: int, *, is_bulk: bool = False) -> Scoring:
    tokens = (0,) * length
    work = Scoring(length, tokens, STATE, targets=tokens, is_bulk=is_bulk)
    work.arrival = arrival
    return work


def sentence(length: int, arrival: int, *, is_bulk: bool = False) -> Sentence:
    work = Sentence([0] * length, is_bulk=is_bulk)
    work.arrival = arrival
    return work


def iteration_queue() -> IterationQueue:
    return IterationQueue(max_batch=MAX_BATCH, max_chunk=MAX_CHUNK, max_tokens=MAX_TOKENS, max_head_rows=MAX_HEAD_ROWS)


def length_queue() -> LengthQueue:
    return LengthQueue(max_batch=MAX_BATCH, max_batch_tokens=MAX_BATCH_TOKENS)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=30))
def test_iterations_consume_every_context_exactly_and_never_pad(requests: list[tuple[bool, int]]) -> None:
    queue = iteration_queue()
    works: list[Sequence] = [
        scoring(length, arrival) if is_scoring else predicting(length, arrival)
        for arrival, (is_scoring, length) in enumerate(requests)
    ]
    for work in works:
        queue.put(work)
    while batch := queue.take(1):
        assert len(batch) <= MAX_BATCH
        assert len({work.chunk for work in batch}) == 1
        assert sum(work.head_rows() for work in batch) <= MAX_HEAD_ROWS
        for work in batch:
            work.consume(STATE)
            if isinstance(work, Scoring):
                work.scored += work.chunk
            if work.remaining():
                queue.put(work)
    assert [work.computed for work in works] == [length for _, length in requests]


def test_a_context_with_nothing_left_to_compute_rides_with_one_token_chunks() -> None:
    queue = iteration_queue()
    works = [predicting(0, 0), predicting(1, 1), predicting(8, 2)]
    for work in works:
        queue.put(work)
    assert queue.take(1) == works[:2]
    assert [work.chunk for work in works] == [0, 1, 8]


def test_one_token_chunks_go_every_other_iteration() -> None:
    queue = iteration_queue()
    for arrival in range(12):
        queue.put(predicting(8, arrival))
    for arrival in range(12, 24):
        queue.put(predicting(1, arrival))
    chunks = [batch[0].chunk for batch in batches(queue)]
    assert chunks == [1, 8, 1, 8, 1, 8]


def test_among_longer_chunks_the_one_that_came_first_goes_first() -> None:
    queue = iteration_queue()
    for arrival, length in enumerate([4, 8, 2]):
        queue.put(predicting(length, arrival))
    assert [batch[0].chunk for batch in batches(queue)] == [4, 8, 2]


@given(st.lists(st.integers(1, 150), max_size=60))
def test_sentence_batches_keep_to_their_limits_and_lose_nothing(lengths: list[int]) -> None:
    queue = length_queue()
    for arrival, length in enumerate(lengths):
        queue.put(sentence(length, arrival))
    taken: list[int] = []
    while batch := queue.take(1):
        sizes = [len(work.tokens) for work in batch]
        assert len(batch) <= MAX_BATCH
        assert len(batch) == 1 or len(batch) * max(sizes) <= MAX_BATCH_TOKENS
        assert min(sizes) >= max(sizes) / 2
        waiting = set(range(len(lengths))) - set(taken)
        assert min(waiting) in [work.arrival for work in batch]  # whoever waited longest is in it
        taken += [work.arrival for work in batch]
    assert sorted(taken) == list(range(len(lengths)))


def test_sentences_of_like_length_go_together() -> None:
    queue = length_queue()
    for arrival, length in enumerate([10, 20, 10, 11, 20, 9]):
        queue.put(sentence(length, arrival))
    assert sorted(len(work.tokens) for work in queue.take(1)) == [9, 10, 10, 11]
    assert [len(work.tokens) for work in queue.take(1)] == [20, 20]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 40)), max_size=40), st.integers(1, 4))
def test_bulk_and_interactive_contexts_are_all_consumed_whoever_shares(
    requests: list[tuple[bool, bool, int]], sharers: int
) -> None:
    queue = iteration_queue()
    works: list[Sequence] = []
    for arrival, (is_scoring, is_bulk, length) in enumerate(requests):
        works.append((scoring if is_scoring else predicting)(length, arrival, is_bulk=is_bulk))
        queue.put(works[-1])
    while batch := queue.take(sharers):
        assert len(batch) <= MAX_BATCH
        assert sum(work.chunk for work in batch) <= MAX_TOKENS
        for work in batch:
            work.consume(STATE)
            if isinstance(work, Scoring):
                work.scored += work.chunk
            if work.remaining():
                queue.put(work)
    assert [work.computed for work in works] == [length for _, _, length in requests]


def test_interactive_work_goes_first_and_bulk_of_its_size_fills_the_batch() -> None:
    queue = iteration_queue()
    bulk = [predicting(1, arrival, is_bulk=True) for arrival in range(4)]
    interactive = [predicting(1, arrival) for arrival in range(4, 10)]
    for work in (*bulk, *interactive):
        queue.put(work)
    assert queue.take(1) == interactive[:4]
    assert queue.take(1) == interactive[4:] + bulk[:2]
    assert queue.take(1) == bulk[2:]


def test_bulk_sentences_of_like_length_fill_the_batch_of_an_interactive_one() -> None:
    queue = length_queue()
    bulk = [sentence(length, arrival, is_bulk=True) for arrival, length in enumerate([9, 60, 11])]
    interactive = sentence(10, 3)
    for work in (*bulk, interactive):
        queue.put(work)
    assert queue.take(1) == [interactive, bulk[0], bulk[2]]
    assert queue.take(1) == [bulk[1]]


@pytest.mark.parametrize("size", [1, 4, 8])
def test_bulk_contexts_are_passed_over_four_times_in_a_row_at_most(size: int) -> None:
    queue = iteration_queue()
    for arrival in range(80):
        queue.put(predicting(2, arrival))
    for arrival in range(80, 100):
        queue.put(predicting(size, arrival, is_bulk=True))
    turns = [batch[0].is_bulk for batch in batches(queue)]
    assert turns[:15] == [False, False, False, False, True] * 3


def test_bulk_sentences_are_passed_over_four_times_in_a_row_at_most() -> None:
    queue = length_queue()
    for arrival in range(80):
        queue.put(sentence(10, arrival))
    for arrival in range(80, 100):
        queue.put(sentence(50, arrival, is_bulk=True))
    turns = [batch[0].is_bulk for batch in batches(queue)]
    assert turns[:15] == [False, False, False, False, True] * 3


@given(st.lists(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=12), max_size=30))
def test_bulk_work_waits_no_more_than_four_batches_for_a_turn_whatever_comes(
    arrivals: list[list[tuple[bool, int]]],
) -> None:
    queue, without, arrival, waiting = length_queue(), 0, 0, 0
    for some in arrivals:
        for is_bulk, length in some:
            queue.put(sentence(length, arrival, is_bulk=is_bulk))
            arrival, waiting = arrival + 1, waiting + is_bulk
        batch = queue.take(1)
        of_bulk = sum(work.is_bulk for work in batch)
        had_turn = bool(batch) and batch[0].is_bulk
        without = without + 1 if waiting and not had_turn else 0
        waiting -= of_bulk
        assert without <= 4


@pytest.mark.parametrize(
    ("waiting", "sharers", "taken"), [(60, 1, 60), (60, 3, 20), (60, 2, 30), (30, 3, 16), (6, 3, 6)]
)
def test_threads_that_are_free_share_what_waits_but_take_no_crumbs(waiting: int, sharers: int, taken: int) -> None:
    queues: list[Any] = [
        IterationQueue(max_batch=64, max_chunk=8, max_tokens=512, max_head_rows=128),
        LengthQueue(max_batch=64, max_batch_tokens=4096),
    ]
    for queue, make in zip(queues, (predicting, sentence), strict=True):
        for arrival in range(waiting):
            queue.put(make(4, arrival))
        assert len(queue.take(sharers)) == taken


def test_an_iteration_consumes_no_more_tokens_than_it_may() -> None:
    queue = IterationQueue(max_batch=64, max_chunk=8, max_tokens=24, max_head_rows=128)
    for arrival in range(8):
        queue.put(predicting(8, arrival))
    assert [len(batch) for batch in batches(queue)] == [3, 3, 2]


@pytest.mark.parametrize(
    ("sizes", "sharers", "reason"),
    [([4] * 3, 1, "all"), ([4] * 9, 1, "full"), ([4] * 60, 4, "part"), ([4, 4, 1], 1, "alike")],
)
def test_queues_tell_what_kept_a_batch_from_being_larger(sizes: list[int], sharers: int, reason: str) -> None:
    max_batch = 8 if reason == "full" else 64
    for make_queue, make in (
        (partial(IterationQueue, max_chunk=8, max_tokens=512, max_head_rows=128), predicting),
        (partial(LengthQueue, max_batch_tokens=4096), sentence),
    ):
        releases = Releases.uncounted()
        queue: Any = make_queue(max_batch=max_batch, releases=releases)
        for arrival, size in enumerate(sizes):
            queue.put(make(size, arrival))
        queue.take(sharers)
        assert {name: tally.value for name, tally in releases._asdict().items() if tally.value} == {reason: 1}


def test_a_batch_is_full_too_where_the_head_has_no_room_for_more() -> None:
    releases = Releases.uncounted()
    queue = IterationQueue(max_batch=64, max_chunk=8, max_tokens=512, max_head_rows=1, releases=releases)
    for arrival in range(2):
        queue.put(predicting(1, arrival))
    assert len(queue.take(1)) == 1
    assert releases.full.value == 1


def batches(queue: IterationQueue | LengthQueue) -> Iterator[Any]:
    """Takes batches until nothing waits."""
    while batch := queue.take(1):
        yield batch
