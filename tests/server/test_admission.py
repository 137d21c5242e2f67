"""How much may wait, and what is refused because it would wait in vain."""

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenstate_server.admission import Admission
from hiddenstate_server.errors import DeadlineError, OverloadedError, RefusalReason
from hiddenstate_server.queue_metrics import uncounted_refusals
from hiddenstate_server.tallies import Tally


@dataclasses.dataclass(frozen=True)
class Waiting:
    """What admission sees of a work."""

    size: int
    deadline: float = math.inf
    is_bulk: bool = False
    dropped: bool = False
    batch_s: float = 0.0


def busy(
    *,
    tokens: int,
    tokens_per_s: float,
    is_bulk: bool = False,
    max_waiting_tokens: int = 10**6,
    batch_s: float = 0.0,
    in_turns: bool = False,
    refusals: dict[RefusalReason, Tally] | None = None,
) -> Admission:
    """Returns an admission at time 0, where so many tokens wait and the model has been seen at that speed."""
    admission = Admission(max_waiting_tokens=max_waiting_tokens, full_batch=2, in_turns=in_turns, refusals=refusals)
    size = 10
    past = [Waiting(size, is_bulk=is_bulk, batch_s=batch_s) for _ in range(21)]
    left = [Waiting(size, is_bulk=is_bulk) for _ in range(tokens // size)]
    for work in (*past, *left):
        admission.admit([work], -100.0)
    for number, work in enumerate(past):
        admission.release([work], (number - 20) * size / tokens_per_s)
    return admission


@given(
    st.lists(st.tuples(st.integers(1, 60), st.booleans(), st.integers(1, 3))),
    st.lists(st.integers(0, 1000)),
    st.integers(1, 200),
)
def test_what_waits_is_counted_exactly_and_never_more_than_may(
    asked: list[tuple[int, bool, int]], released: list[int], most: int
) -> None:
    admission = Admission(max_waiting_tokens=most, full_batch=2)
    inside: list[Waiting] = []
    now, turns = 0.0, iter(released)
    for size, is_bulk, count in asked:
        works = [Waiting(size, is_bulk=is_bulk)] * count
        now += 0.01
        fits = sum(work.size for work in inside) + size * count <= most
        try:
            admission.admit(works, now)
        except OverloadedError:
            assert not fits
        else:
            assert fits
            inside += works
        if inside and (turn := next(turns, None)) is not None:
            admission.release([inside.pop(turn % len(inside))], now)
        assert (admission.waiting_works, admission.waiting_tokens) == (len(inside), sum(work.size for work in inside))
    admission.release(inside, now + 1)
    assert (admission.waiting_works, admission.waiting_tokens, admission._waiting_interactive) == (0, 0, 0)


def test_works_that_come_together_are_taken_all_or_none() -> None:
    refusals = uncounted_refusals()
    admission = Admission(max_waiting_tokens=100, full_batch=2, refusals=refusals)
    admission.admit([Waiting(60)], 0.0)
    with pytest.raises(OverloadedError, match="holds 60 tokens and takes 100; this request has 41: "):
        admission.admit([Waiting(40), Waiting(1)], 0.0)
    assert (admission.waiting_works, admission.waiting_tokens, refusals["queue_full"].value) == (1, 60, 1)
    admission.admit([Waiting(39), Waiting(1)], 0.0)


def test_what_could_never_wait_is_refused_without_a_hint_to_come_again() -> None:
    admission = Admission(max_waiting_tokens=100, full_batch=2)
    with pytest.raises(
        OverloadedError, match=r"101 tokens, .* takes 100 \(--max-waiting-tokens\); send it in smaller parts"
    ) as refused:
        admission.admit([Waiting(101)], 0.0)
    assert refused.value.retry_after_s is None


@pytest.mark.parametrize("tokens_per_s", [50.0, 1000.0, 20_000.0])
def test_the_speed_of_the_queue_is_seen_where_it_is_full(tokens_per_s: float) -> None:
    admission = busy(tokens=1000, tokens_per_s=tokens_per_s)
    assert admission.wait_s(1000) == pytest.approx(1000 / tokens_per_s, rel=0.05)


@pytest.mark.parametrize("drops", [1, 9])
def test_what_was_dropped_does_not_make_the_model_look_faster(drops: int) -> None:
    admission = busy(tokens=1000, tokens_per_s=100.0)
    admission.admit([Waiting(10)] * 50 * (1 + drops), 0.0)
    for number in range(1, 51):
        done = [Waiting(10), *[Waiting(10, dropped=True)] * drops]
        admission.release(done, number / 10)
    assert admission.waiting_tokens == 1000
    assert admission.wait_s(1000) == pytest.approx(10, rel=0.05)


def test_a_model_that_had_little_to_do_is_not_taken_for_a_slow_one() -> None:
    admission = Admission(max_waiting_tokens=100, full_batch=2)
    for now in range(50):
        admission.admit([Waiting(1)], float(now))
        admission.release([Waiting(1)], now + 0.9)
    assert admission.wait_s(100) == 0
    admission.admit([Waiting(100, deadline=50.0 + 1e-9)], 50.0)


def test_a_model_that_became_slow_is_soon_seen_as_slow() -> None:
    admission = busy(tokens=1000, tokens_per_s=1000.0)
    for number in range(1, 11):
        admission.release([Waiting(10)], float(number))
    assert admission.wait_s(10) > 0.9


def test_what_could_not_be_answered_in_time_is_refused_with_the_time_when_it_could() -> None:
    admission = busy(tokens=1000, tokens_per_s=100.0)  # 10 s of work
    with pytest.raises(OverloadedError, match=r"about 10 s of work, and this request has 4 s: ") as refused:
        admission.admit([Waiting(5, deadline=4.0)], 0.0)
    assert refused.value.retry_after_s == pytest.approx(10 - 0.7 * 4, rel=0.05)  # it would be taken then
    assert (admission.waiting_tokens, refused.value.reason) == (1000, "queue_slow")
    admission.admit([Waiting(5, deadline=20.0)], 0.0)
    admission.admit([Waiting(5)], 0.0)


def test_an_answer_comes_when_its_whole_batch_is_done() -> None:
    admission = busy(tokens=1000, tokens_per_s=1000.0, batch_s=2.0)  # 1 s of work goes first
    with pytest.raises(OverloadedError, match=r"about 3 s of work, and this request has 4 s: "):
        admission.admit([Waiting(5, deadline=4.0)], 0.0)
    admission.admit([Waiting(5, deadline=4.5)], 0.0)


def test_batches_that_became_short_again_refuse_nobody() -> None:
    admission = busy(tokens=1000, tokens_per_s=1000.0, batch_s=20.0)
    with pytest.raises(OverloadedError):
        admission.admit([Waiting(5, deadline=4.0)], 0.0)
    for number in range(1, 51):
        admission.release([Waiting(10, batch_s=0.1)], number / 100)
    admission.admit([Waiting(5, deadline=4.5)], 0.5)


def test_a_short_queue_is_judged_by_what_was_seen_a_short_time_ago() -> None:
    admission = busy(tokens=20, tokens_per_s=1.0)  # 20 s of work in two works, which are a batch: no speed is seen now
    with pytest.raises(OverloadedError, match=r"about \d\d s of work, and this request has 4 s"):
        admission.admit([Waiting(5, deadline=5.0)], 1.0)
    admission.admit([Waiting(5, deadline=7.0)], 3.0)


def test_who_finds_nobody_waiting_is_never_refused_for_the_deadline() -> None:
    admission = busy(tokens=0, tokens_per_s=1.0, batch_s=20.0)
    admission.admit([Waiting(5, deadline=0.1)], 0.0)
    assert admission.waiting_works == 1


def test_a_batch_that_waits_for_little_is_taken_for_a_short_one() -> None:
    admission = busy(tokens=10, tokens_per_s=100.0, batch_s=2.0)  # 0.15 s of work with its own, in 0.3 s at most
    with pytest.raises(OverloadedError, match=r"about 0.4\d s of work"):
        admission.admit([Waiting(5, deadline=0.4 / 0.7)], 0.0)
    admission.admit([Waiting(5, deadline=0.5 / 0.7)], 0.0)


def test_what_a_request_needs_itself_counts_too() -> None:
    admission = busy(tokens=10, tokens_per_s=100.0)
    with pytest.raises(OverloadedError, match=r"about 10 s of work, and this request has 4 s"):
        admission.admit([Waiting(100, deadline=4.0)] * 10, 0.0)
    admission.admit([Waiting(100, deadline=4.0)], 0.0)


def test_a_full_queue_is_believed_to_be_slow_however_long_a_batch_takes() -> None:
    admission = busy(tokens=1000, tokens_per_s=100.0, batch_s=9.0)
    with pytest.raises(OverloadedError):
        admission.admit([Waiting(5, deadline=9.0)], 8.0)


def test_what_advances_in_turns_does_not_wait_for_all_that_is_before_it() -> None:
    admission = busy(tokens=1000, tokens_per_s=100.0, in_turns=True)  # 100 works of 10 tokens
    admission.check(4.0, 0.0, False)  # 1 s: a token of each of them
    with pytest.raises(OverloadedError, match=r"about 5\.1 s of work"):
        admission.admit([Waiting(5, deadline=4.0)], 0.0)
    with pytest.raises(OverloadedError, match="about 15 s of work"):  # its own 500, and all that waits
        admission.admit([Waiting(500, deadline=4.0)], 0.0)
    admission.admit([Waiting(1, deadline=4.0)], 0.0)


@pytest.mark.parametrize(
    ("deadline", "size", "is_bulk"),
    [(4.0, 1, False), (4.0, 1, True), (11.0, 1, False), (15.0, 1, False), (15.0, 100, False), (-1.0, 1, False)],
)
@pytest.mark.parametrize("deadline_is_all", [False, True])
def test_a_refusal_is_what_a_check_raises(deadline: float, size: int, is_bulk: bool, deadline_is_all: bool) -> None:
    admission = busy(tokens=1000, tokens_per_s=100.0)
    deadline = math.inf if deadline_is_all else deadline
    try:
        admission.check(deadline, 0.0, is_bulk, size)
    except (DeadlineError, OverloadedError) as error:
        raised: DeadlineError | OverloadedError | None = error
    else:
        raised = None
    refusal = admission.refusal(deadline, 0.0, is_bulk, size)
    assert type(refusal) is type(raised)
    assert str(refusal) == str(raised)
    if isinstance(refusal, OverloadedError) and isinstance(raised, OverloadedError):
        assert (refusal.retry_after_s, refusal.reason) == (raised.retry_after_s, raised.reason)


def test_refusals_that_read_about_alike_are_one_and_all_are_counted() -> None:
    refusals = uncounted_refusals()
    admission = busy(tokens=1000, tokens_per_s=100.0, refusals=refusals)
    first = admission.refusal(4.0, 0.0, False)
    assert first is not None
    assert first.__traceback__ is None
    assert admission.refusal(4.02, 0.01, False, 2) is first
    assert admission.refusal(5.0, 0.0, False) is not first
    assert admission.refusal(4.0, 0.0, False) is first  # several are remembered
    assert "about 12 s of work, and this request has 5 s" in str(admission.refusal(5.0, 0.0, False, 200))
    assert refusals["queue_slow"].value == 5


@given(st.lists(st.tuples(st.floats(0.001, 10), st.integers(1, 5000), st.integers(0, 5000)), max_size=80))
def test_a_refusal_never_tells_numbers_that_are_far_off(asked: list[tuple[float, int, int]]) -> None:
    admission = busy(tokens=1000, tokens_per_s=100.0)
    for left, size, more in asked:
        if more:
            admission.admit([Waiting(more)], 0.0)
        refusal = admission.refusal(left, 0.0, False, size)
        if refusal is None:
            continue
        number = r"([\d.e,+-]+)"
        told = re.match(rf"the queue holds {number} tokens, about {number} s of .* has {number} s:", str(refusal))
        assert told
        tokens, ahead, has = (float(each.replace(",", "")) for each in told.groups())
        assert tokens == pytest.approx(admission.waiting_tokens, rel=0.06)
        assert ahead == pytest.approx(admission.wait_s(admission.waiting_tokens + size), rel=0.12)
        assert has == pytest.approx(left, rel=0.12)
        assert isinstance(refusal, OverloadedError)
        assert refusal.retry_after_s is not None


def test_several_works_have_the_earliest_deadline_of_them() -> None:
    admission = busy(tokens=1000, tokens_per_s=100.0)
    with pytest.raises(OverloadedError, match="has 4 s"):
        admission.admit([Waiting(5, deadline=30.0), Waiting(5, deadline=4.0)], 0.0)


def test_a_deadline_that_has_passed_is_not_called_overload() -> None:
    refusals = uncounted_refusals()
    admission = Admission(max_waiting_tokens=100, full_batch=2, refusals=refusals)
    with pytest.raises(DeadlineError, match="had passed when the request came"):
        admission.admit([Waiting(5, deadline=1.0)], 1.0)
    assert (admission.waiting_works, refusals["queue_slow"].value) == (0, 0)
    with pytest.raises(DeadlineError):  # also where it would be too large
        admission.admit([Waiting(500, deadline=1.0)], 1.0)
    admission.admit([Waiting(5, deadline=1.1)], 1.0)


def test_what_is_interactive_does_not_wait_for_bulk_and_bulk_waits_for_all() -> None:
    admission = busy(tokens=1000, tokens_per_s=100.0, is_bulk=True)
    admission.admit([Waiting(5, deadline=4.0)], 0.0)
    with pytest.raises(OverloadedError, match="has 4 s"):
        admission.admit([Waiting(5, deadline=4.0, is_bulk=True)], 0.0)


def test_a_full_queue_tells_when_there_will_be_room() -> None:
    admission = busy(tokens=1000, tokens_per_s=100.0, max_waiting_tokens=1210)
    admission.admit([Waiting(210)], 0.0)
    with pytest.raises(OverloadedError) as refused:
        admission.admit([Waiting(50)], 0.0)
    assert refused.value.retry_after_s == pytest.approx(0.5, rel=0.05)


def test_a_full_queue_of_unknown_speed_still_gives_a_time() -> None:
    admission = Admission(max_waiting_tokens=100, full_batch=2)
    admission.admit([Waiting(100)], 0.0)
    with pytest.raises(OverloadedError) as refused:
        admission.admit([Waiting(1)], 0.0)
    assert refused.value.retry_after_s is not None
    assert 0 < refused.value.retry_after_s < 1
