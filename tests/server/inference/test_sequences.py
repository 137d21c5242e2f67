"""Sequences with a clock that tests hold in their hands."""

import asyncio

import pytest

from hiddenstate_server.errors import InvalidRequestError, OverloadedError, SequenceError, ServingError
from hiddenstate_server.inference.sequences import MAX_ID_LENGTH, OVERHEAD_BYTES, Sequences
from hiddenstate_server.inference.tensors import SequenceStep

LIMIT_S, ROOM = 10.0, 3  # sequences of tiny states


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sequences(clock: Clock) -> Sequences[list[str]]:
    return Sequences(idle_limit_s=LIMIT_S, max_bytes=ROOM * OVERHEAD_BYTES, clock=clock)


async def take(
    sequences: Sequences[list[str]], id: int | str, word: str, *, start: bool = False, end: bool = False, size: int = 0
) -> list[str]:
    """A step that appends a word and answers all words so far."""
    async with sequences.step(SequenceStep(id=id, start=start, end=end), size) as turn:
        words = [*(turn.state or []), word]
        await asyncio.sleep(0)
        if word == "fail":
            raise InvalidRequestError("asked to fail")
        if not end:
            turn.keep(words, size)
        return words


async def test_a_state_travels_from_step_to_step_and_ids_of_another_type_are_others(
    sequences: Sequences[list[str]],
) -> None:
    await take(sequences, 7, "a", start=True)
    await take(sequences, "7", "x", start=True)
    assert await take(sequences, 7, "b") == ["a", "b"]
    assert await take(sequences, "7", "y") == ["x", "y"]
    assert await take(sequences, 7, "c", end=True) == ["a", "b", "c"]
    assert (7 in sequences, "7" in sequences) == (False, True)
    assert (sequences.live, sequences.bytes) == (1, OVERHEAD_BYTES)


async def test_steps_that_are_sent_at_once_are_taken_in_their_order(sequences: Sequences[list[str]]) -> None:
    words = list("abcdefgh")
    steps = [take(sequences, id, word, start=word == "a", end=word == "h") for word in words for id in (1, "one", 2)]
    answers = await asyncio.gather(*steps)
    assert answers[-3:] == [words] * 3
    assert (sequences.live, sequences.bytes, sequences.started, sequences.ended) == (0, 0, 3, 3)


@pytest.mark.parametrize("id", [0, ""])
async def test_no_id_is_no_sequence(sequences: Sequences[list[str]], id: int | str) -> None:
    with pytest.raises(InvalidRequestError, match=r"sequence_id: is .* stands for none"):
        await take(sequences, id, "a", start=True)


async def test_a_long_id_is_refused_and_not_remembered(sequences: Sequences[list[str]]) -> None:
    id = "x" * (MAX_ID_LENGTH + 1)
    with pytest.raises(InvalidRequestError, match="sequence_id: has 129 characters, at most 128"):
        await take(sequences, id, "a", start=True)
    sequences.refuse(SequenceStep(id=id, start=True))
    assert not sequences._fates


async def test_a_sequence_that_nobody_began_is_told_from_one_that_has_ended(sequences: Sequences[list[str]]) -> None:
    with pytest.raises(SequenceError, match="sequence 5 is not known here; begin it with sequence_start"):
        await take(sequences, 5, "a")
    await take(sequences, 5, "a", start=True, end=True)
    with pytest.raises(SequenceError, match="sequence 5 has ended; begin it"):
        await take(sequences, 5, "b")


async def test_a_sequence_may_begin_again_after_its_end_and_before_it(sequences: Sequences[list[str]]) -> None:
    await take(sequences, 5, "a", start=True)
    assert await take(sequences, 5, "b", start=True) == ["b"]
    assert await take(sequences, 5, "c", end=True) == ["b", "c"]
    assert await take(sequences, 5, "d", start=True) == ["d"]
    assert sequences.bytes == OVERHEAD_BYTES


async def test_a_new_start_does_not_disturb_steps_that_wait_for_the_older_sequence(
    sequences: Sequences[list[str]],
) -> None:
    older = [take(sequences, 5, word, start=word == "a") for word in "abc"]
    newer = [take(sequences, 5, word, start=word == "x") for word in "xy"]
    answers = await asyncio.gather(*older, *newer)
    assert answers[2] == ["a", "b", "c"]
    assert answers[-1] == ["x", "y"]
    assert (sequences.live, sequences.bytes) == (1, OVERHEAD_BYTES)


async def test_a_silent_sequence_expires_and_says_so(sequences: Sequences[list[str]], clock: Clock) -> None:
    await take(sequences, 5, "a", start=True)
    clock.now = LIMIT_S - 1
    await take(sequences, 5, "b")
    clock.now = 2 * LIMIT_S - 2
    await take(sequences, 5, "c")  # each step begins the time anew
    clock.now = 4 * LIMIT_S
    with pytest.raises(SequenceError, match="sequence 5 was let go after 10 s without a step; begin it"):
        await take(sequences, 5, "d")
    assert (sequences.live, sequences.bytes, sequences.expired) == (0, 0, 1)


class Watched(Sequences[list[str]]):
    """Tells when the last sequence was let go."""

    def __init__(self, *, idle_limit_s: float, max_bytes: int) -> None:
        super().__init__(idle_limit_s=idle_limit_s, max_bytes=max_bytes)
        self.empty = asyncio.Event()

    def expire(self) -> None:
        super().expire()
        if not self.live:
            self.empty.set()


async def test_a_timer_lets_go_without_any_call() -> None:
    sequences = Watched(idle_limit_s=0.001, max_bytes=10**6)
    for id in range(1, 4):
        await take(sequences, id, "a", start=True)
    await asyncio.wait_for(sequences.empty.wait(), 20)
    assert (sequences.bytes, sequences.expired) == (0, 3)
    assert sequences._timer is None  # nothing keeps an unused model in memory


async def test_a_sequence_in_use_never_expires(sequences: Sequences[list[str]], clock: Clock) -> None:
    await take(sequences, 5, "a", start=True)
    async with sequences.step(SequenceStep(id=5)) as turn:
        clock.now = 100 * LIMIT_S
        sequences.expire()
        turn.keep([*(turn.state or []), "b"], 0)
    assert await take(sequences, 5, "c") == ["a", "b", "c"]


async def test_the_longest_silent_sequence_makes_room(sequences: Sequences[list[str]], clock: Clock) -> None:
    for id in (1, 2, 3):
        clock.now += 1
        await take(sequences, id, "a", start=True)
    clock.now += 1
    await take(sequences, 1, "b")
    await take(sequences, 4, "a", start=True)
    assert [id in sequences for id in (1, 2, 3, 4)] == [True, False, True, True]
    with pytest.raises(SequenceError, match="sequence 2 was let go to make room for others; begin it"):
        await take(sequences, 2, "b")
    assert (sequences.evicted, sequences.bytes) == (1, ROOM * OVERHEAD_BYTES)


async def test_sequences_in_use_are_not_evicted_a_new_one_is_refused_and_what_it_meant_to_begin_is_gone(
    sequences: Sequences[list[str]],
) -> None:
    steps = [sequences.step(SequenceStep(id=id, start=True)) for id in (1, 2, 3)]
    for step in steps:
        await step.__aenter__()
    with pytest.raises(OverloadedError, match="sequences in use hold 3,072 bytes and may hold 3,072"):
        await take(sequences, 4, "a", start=True)
    with pytest.raises(SequenceError, match="sequence 4 has not begun: there was no room"):
        await take(sequences, 4, "b")
    for step in steps:
        await step.__aexit__(None, None, None)
    assert await take(sequences, 4, "a", start=True) == ["a"]


async def test_a_state_that_outgrows_the_budget_fails_its_step_and_stays_as_it_was(
    sequences: Sequences[list[str]],
) -> None:
    await take(sequences, 1, "a", start=True, size=100)
    with pytest.raises(OverloadedError):
        await take(sequences, 1, "b", size=ROOM * OVERHEAD_BYTES)
    assert await take(sequences, 1, "c", size=50) == ["a", "c"]
    assert sequences.bytes == 50 + OVERHEAD_BYTES


async def test_a_failed_step_changes_nothing_and_takes_along_those_that_waited_behind_it(
    sequences: Sequences[list[str]],
) -> None:
    await take(sequences, 5, "a", start=True)
    steps = [take(sequences, 5, word) for word in ("b", "fail", "c", "d")]
    answers = await asyncio.gather(*steps, return_exceptions=True)
    assert answers[0] == ["a", "b"]
    assert [type(answer) for answer in answers[1:]] == [InvalidRequestError, SequenceError, SequenceError]
    assert "a step of sequence 5 before this one failed" in str(answers[2])
    assert await take(sequences, 5, "c") == ["a", "b", "c"]


async def test_a_sequence_whose_first_step_fails_has_not_begun(sequences: Sequences[list[str]]) -> None:
    first, second = await asyncio.gather(
        take(sequences, 5, "fail", start=True), take(sequences, 5, "b", end=True), return_exceptions=True
    )
    assert isinstance(first, InvalidRequestError)
    assert isinstance(second, SequenceError)
    with pytest.raises(SequenceError, match="sequence 5 has not begun: its first step failed"):
        await take(sequences, 5, "c")
    assert (sequences.live, sequences.bytes, sequences.ended) == (0, 0, 0)


async def test_a_last_step_that_fails_can_be_sent_again(sequences: Sequences[list[str]]) -> None:
    await take(sequences, 5, "a", start=True)
    with pytest.raises(InvalidRequestError):
        await take(sequences, 5, "fail", end=True)
    assert await take(sequences, 5, "b", end=True) == ["a", "b"]
    assert (sequences.live, sequences.bytes, sequences.ended) == (0, 0, 1)


async def test_a_cancelled_step_frees_its_turn_and_changes_nothing(sequences: Sequences[list[str]]) -> None:
    await take(sequences, 5, "a", start=True)
    async with sequences.step(SequenceStep(id=5)):
        waiting = asyncio.create_task(take(sequences, 5, "b"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert await take(sequences, 5, "c") == ["a", "c"]


async def test_a_refused_start_ends_what_went_before_it(sequences: Sequences[list[str]]) -> None:
    await take(sequences, 5, "a", start=True)
    sequences.refuse(SequenceStep(id=5, start=True))
    with pytest.raises(SequenceError, match="sequence 5 has not begun: its first step was refused"):
        await take(sequences, 5, "b")
    assert (sequences.live, sequences.bytes) == (0, 0)


async def test_what_is_remembered_of_sequences_that_are_gone_is_bounded(sequences: Sequences[list[str]]) -> None:
    for id in range(1, 5001):
        await take(sequences, id, "a", start=True, end=True)
    assert len(sequences._fates) == 4096
    assert (sequences.live, sequences.bytes, len(sequences._idle)) == (0, 0, 0)
    with pytest.raises(ServingError, match="sequence 1 is not known here"):
        await take(sequences, 1, "b")
