"""How long messages lay unread, by clocks that do not agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenstate_server.transit import Transit

WINDOW_S, MOST_S = 60.0, 20.0
AHEAD_S = 1e9  # what the caller's clock shows more than the server's


def waited_s(transit: Transit, sent: float, read: float, *, ahead: float = AHEAD_S) -> float:
    """Returns what is told of a message that was sent and read at these times of the server's clock."""
    return transit.waited_s(round((sent + ahead) * 1e6), read)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 10)), min_size=1, max_size=20),
    st.floats(0, 5),
    st.floats(0, 1e9),
)
def test_a_message_waited_what_it_took_more_than_the_quickest(
    messages: list[tuple[float, float]], way: float, ahead: float
) -> None:
    transit, now, least = Transit(), 0.0, float("inf")
    for pause, queue in messages:
        now = now + pause  # 20 s in all: one window
        least = min(least, queue)
        assert waited_s(transit, now - way - queue, now, ahead=ahead) == pytest.approx(queue - least, abs=1e-5)


def test_the_least_is_forgotten_after_two_windows_at_most_and_kept_for_one() -> None:
    transit = Transit()
    assert waited_s(transit, 0.0, 1.0) == 0
    assert waited_s(transit, WINDOW_S - 4, WINDOW_S) == pytest.approx(3)
    assert waited_s(transit, 2 * WINDOW_S - 5, 2 * WINDOW_S) == pytest.approx(4)  # it was 1 in the window before
    assert waited_s(transit, 3 * WINDOW_S, 3 * WINDOW_S + 7) == pytest.approx(2)  # and now it was 5 there


def test_what_was_seen_before_a_long_silence_counts_no_more() -> None:
    transit = Transit()
    waited_s(transit, 0.0, 1.0)
    assert waited_s(transit, 10 * WINDOW_S, 10 * WINDOW_S + 5) == 0


def test_a_clock_that_was_set_makes_no_message_late_for_long() -> None:
    transit = Transit()
    waited_s(transit, 0.0, 0.1)
    assert waited_s(transit, 1.0, 1.1, ahead=AHEAD_S - MOST_S - 5) == 0
    assert waited_s(transit, 2.0, 2.4, ahead=AHEAD_S - MOST_S - 5) == pytest.approx(0.3)
    assert waited_s(transit, 3.0, 3.1, ahead=AHEAD_S + 3600) == 0


@pytest.mark.parametrize("sent_at_us", [1, 2**64 - 1])
def test_any_number_is_a_time(sent_at_us: int) -> None:
    transit = Transit()
    assert transit.waited_s(sent_at_us, 5.0) == 0
    assert transit.waited_s(sent_at_us, 6.0) == pytest.approx(1, abs=0.01)
