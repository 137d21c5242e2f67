"""The clock that messages tell their time by."""

import time

from hiddenstate.send_clock import SendClock


def test_it_runs_evenly_from_a_beginning_of_its_own() -> None:
    one, other = SendClock(), SendClock()
    ahead, before = other.now_us() - one.now_us(), time.monotonic()
    first = one.now_us()
    time.sleep(0.05)
    last = one.now_us()
    assert 50_000 <= last - first <= 1e6 * (time.monotonic() - before)
    assert abs(ahead) > 1_000_000  # of 12 days
    assert abs(other.now_us() - one.now_us() - ahead) < 1_000_000
