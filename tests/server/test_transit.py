"""How long messages lay unread, by clocks that do not agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenstate_server.transit import Transit

WINDOW_S, MOST_S = 20.0, 10.0
AHEAD_S = 1e9  # what the caller's clock shows more than the server's


def unread_s(transit: Transit, sent: float, read: float, *, ahead: float = AHEAD_S, waited: float = 0.0) -> float:
    """Returns what is told of a message that was sent and read at these times of the server's clock."""
    return transit.unread_s(round((sent + ahead) * 1e6), read - waited, read)


@given(
    st.lists(st.tuples(st.floats(0, 0.9), st.floats(0, 9)), min_size=1, max_size=20),
    st.floats(0, 5),
    st.floats(0, 1e9),
)
def test_a_message_lay_unread_for_what_it_took_more_than_the_quickest(
    messages: list[tuple[float, float]], way: float, ahead: float
) -> None:
    transit, now, least = Transit(), 0.0, float("inf")
    for pause, queue in messages:
        now += pause  # 18 s in all: one window
        least = min(least, queue)
        unread = unread_s(transit, now - way - queue, now, ahead=ahead, waited=pause)
        assert unread == pytest.approx(queue - least, abs=1e-5)


def test_the_least_is_kept_for_one_window_and_forgotten_after_two_at_most() -> None:
    transit = Transit()
    assert unread_s(transit, 0.0, 1.0) == 0
    assert unread_s(transit, WINDOW_S - 4, WINDOW_S) == pytest.approx(3)
    assert unread_s(transit, 2 * WINDOW_S - 5, 2 * WINDOW_S) == pytest.approx(4)  # it was 1 in the window before
    assert unread_s(transit, 3 * WINDOW_S, 3 * WINDOW_S + 7) == pytest.approx(2)  # and now it was 5 there


def test_what_was_seen_before_a_long_silence_counts_no_more() -> None:
    transit = Transit()
    unread_s(transit, 0.0, 1.0)
    assert unread_s(transit, 10 * WINDOW_S, 10 * WINDOW_S + 5) == 0


@pytest.mark.parametrize("stood_still_s", [1.5, 5.0, 9.9, 11.0, 3600.0])
def test_a_clock_that_stood_still_makes_no_message_late(stood_still_s: float) -> None:
    transit = Transit()
    unread_s(transit, 0.0, 0.1)
    # Nothing is sent meanwhile: the server waits for at least as long.
    later, ahead = 1 + stood_still_s, AHEAD_S - stood_still_s
    assert unread_s(transit, later, later + 0.1, ahead=ahead, waited=stood_still_s + 0.1) == 0
    assert unread_s(transit, later + 1, later + 1.4, ahead=ahead) == pytest.approx(0.3)


def test_a_message_for_which_the_server_did_not_wait_lay_there_before() -> None:
    transit = Transit()
    unread_s(transit, 0.0, 0.1)
    assert unread_s(transit, 1.0, 3.1, waited=0.3) == pytest.approx(2)  # the event loop came late to it
    assert unread_s(transit, 2.0, 5.1, waited=1.0) == pytest.approx(3)


def test_a_clock_that_was_set_makes_no_message_late_for_long() -> None:
    transit = Transit()
    unread_s(transit, 0.0, 0.1)
    assert unread_s(transit, 1.0, 1.1, ahead=AHEAD_S - MOST_S - 5) == 0
    assert unread_s(transit, 2.0, 2.4, ahead=AHEAD_S - MOST_S - 5) == pytest.approx(0.3)
    assert unread_s(transit, 3.0, 3.1, ahead=AHEAD_S + 3600) == 0


@pytest.mark.parametrize("sent_at_us", [1, 2**64 - 1])
def test_any_number_is_a_time(sent_at_us: int) -> None:
    transit = Transit()
    assert transit.unread_s(sent_at_us, 5.0, 5.0) == 0
    assert transit.unread_s(sent_at_us, 6.0, 6.0) == pytest.approx(1, abs=0.01)
