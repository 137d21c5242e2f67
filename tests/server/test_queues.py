"""Who goes together: both queues lose nothing, double nothing and pass nobody over for ever."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hiddenstate_server.iteration_queue import IterationQueue
from hiddenstate_server.length_queue import LengthQueue
from hiddenstate_server.sentence import Sentence
from hiddenstate_server.sequence import Predicting, Scoring, Sequence

STATE = np.zeros(1, dtype=np.float32)
MAX_BATCH, MAX_CHUNK, MAX_HEAD_ROWS, MAX_BATCH_TOKENS = 4, 8, 10, 100


def predicting(length: int, arrival: int) -> Predicting:
    return Predicting(size=length, tokens=np.zeros(length, dtype=np.int64), state=STATE, arrival=arrival)


def scoring(length: int, arrival: int) -> Scoring:
    tokens = np.zeros(length, dtype=np.int64)
    return Scoring(size=length, tokens=tokens, targets=tokens, state=STATE, arrival=arrival)


def sentence(length: int, arrival: int) -> Sentence:
    return Sentence(size=length, tokens=[0] * length, out=STATE, arrival=arrival)


def iteration_queue() -> IterationQueue:
    return IterationQueue(max_batch=MAX_BATCH, max_chunk=MAX_CHUNK, max_head_rows=MAX_HEAD_ROWS)


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
    while batch := queue.take():
        assert len(batch) <= MAX_BATCH
        assert len({work.chunk for work in batch}) == 1
        assert sum(work.head_rows for work in batch) <= MAX_HEAD_ROWS
        for work in batch:
            work.consume(STATE)
            if isinstance(work, Scoring):
                work.scored += work.chunk
            if work.remaining:
                queue.put(work)
    assert [work.computed for work in works] == [length for _, length in requests]


def test_a_context_with_nothing_left_to_compute_rides_with_one_token_chunks() -> None:
    queue = iteration_queue()
    works = [predicting(0, 0), predicting(1, 1), predicting(8, 2)]
    for work in works:
        queue.put(work)
    assert queue.take() == works[:2]
    assert [work.chunk for work in works] == [0, 1, 8]


def test_one_token_chunks_go_every_other_iteration() -> None:
    queue = iteration_queue()
    for arrival in range(12):
        queue.put(predicting(8, arrival))
    for arrival in range(12, 24):
        queue.put(predicting(1, arrival))
    chunks = [batch[0].chunk for batch in iter(queue.take, [])]
    assert chunks == [1, 8, 1, 8, 1, 8]


def test_among_longer_chunks_the_one_that_came_first_goes_first() -> None:
    queue = iteration_queue()
    for arrival, length in enumerate([4, 8, 2]):
        queue.put(predicting(length, arrival))
    assert [batch[0].chunk for batch in iter(queue.take, [])] == [4, 8, 2]


@given(st.lists(st.integers(1, 150), max_size=60))
def test_sentence_batches_keep_to_their_limits_and_lose_nothing(lengths: list[int]) -> None:
    queue = length_queue()
    for arrival, length in enumerate(lengths):
        queue.put(sentence(length, arrival))
    taken: list[int] = []
    while batch := queue.take():
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
    assert sorted(len(work.tokens) for work in queue.take()) == [9, 10, 10, 11]
    assert [len(work.tokens) for work in queue.take()] == [20, 20]
