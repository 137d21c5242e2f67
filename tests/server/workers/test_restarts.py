"""When a worker that ended is started again."""

from hiddenstate_server.workers.restarts import Restarts


def test_a_worker_that_served_long_is_started_again_at_once() -> None:
    assert Restarts().delay_s(served_s=3600) == 0


def test_the_wait_grows_with_every_short_life_and_has_a_bound() -> None:
    history = Restarts()
    delays = [history.delay_s(served_s=1) for _ in range(5000)]
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == 10


def test_one_long_life_lets_the_wait_begin_anew() -> None:
    history = Restarts()
    assert [history.delay_s(each) for each in (1, 1, 3600, 1)] == [0.2, 0.4, 0, 0.2]


def test_five_lives_in_a_row_that_never_served_are_enough() -> None:
    history = Restarts()
    assert None not in [history.delay_s(each) for each in (None, None, None, None, 1, None, None, None, None)]
    assert history.delay_s(None) is None
