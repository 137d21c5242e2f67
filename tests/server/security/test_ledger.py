"""What callers have used, where several processes count it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hiddenstate_server.errors import OverloadedError
from hiddenstate_server.security.ledger import _SETS, _WAYS, SharedLedger
from hiddenstate_server.security.limits import Limits, Use

WAIT_S = 60.0
RARELY = 0.001  # a second: nothing more within a test
WORKERS = 3

TAKING = """
import os
import sys
from hiddenstate_server.security.ledger import SharedLedger
from hiddenstate_server.security.limits import Limits, Use

ledger = SharedLedger(int(sys.argv[1]), workers=3, worker=int(sys.argv[2]))
use = Use("a caller", Limits(tokens_per_s=1e-9, streams=100_000), ledger.account("alice"))
streams = [use.stream() for _ in range(2000)]
for stream in streams:
    use.take_tokens(1)
    stream.__enter__()
os._exit(0)
"""


@pytest.fixture
def descriptor() -> Iterator[int]:
    """The memory of a ledger."""
    descriptor = SharedLedger.create(WORKERS)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def ledgers(descriptor: int) -> list[SharedLedger]:
    """What each of three workers has of it."""
    return [SharedLedger(descriptor, workers=WORKERS, worker=number) for number in range(1, WORKERS + 1)]


def uses(ledgers: list[SharedLedger], limits: Limits, name: str = "alice") -> list[Use]:
    return [Use(name, limits, ledger.account(name)) for ledger in ledgers]


def test_calls_and_tokens_count_at_all_workers_together(ledgers: list[SharedLedger]) -> None:
    first, second, third = uses(ledgers, Limits(calls_per_s=2 + RARELY, tokens_per_s=100))
    first.begin_call()
    second.begin_call()
    with pytest.raises(OverloadedError, match="calls a second"):
        third.begin_call()
    first.check_tokens(100)
    first.take_tokens(1_000_000)
    with pytest.raises(OverloadedError, match="tokens a second"):
        second.check_tokens(1)
    (other, *_) = uses(ledgers, Limits(calls_per_s=1), "bob")
    other.begin_call()


def test_streams_count_at_all_workers_and_those_of_a_worker_that_ended_do_not(ledgers: list[SharedLedger]) -> None:
    first, second, third = uses(ledgers, Limits(streams=2))
    streams = [first.stream(), second.stream()]
    for stream in streams:
        stream.__enter__()
    with pytest.raises(OverloadedError, match="has 2 streams open"), third.stream():
        pass
    ledgers[0].forget_worker()
    with third.stream(), pytest.raises(OverloadedError), first.stream():
        pass
    streams[1].__exit__(None, None, None)
    with first.stream(), third.stream():
        pass


def test_processes_that_count_at_the_same_time_lose_nothing(descriptor: int, ledgers: list[SharedLedger]) -> None:
    command = [sys.executable, "-c", TAKING, str(descriptor)]
    counting = [subprocess.Popen([*command, number], pass_fds=[descriptor]) for number in "123"]
    assert [process.wait(WAIT_S) for process in counting] == [0, 0, 0]
    with ledgers[0].account("alice") as used:
        assert used.tokens[0] == 6000
        assert used.streams == 6000


def test_where_room_is_short_those_give_way_who_were_silent_for_longest(ledgers: list[SharedLedger]) -> None:
    ledger = ledgers[0]
    (busy,) = uses([ledger], Limits(streams=1), "busy")
    stream = busy.stream()
    stream.__enter__()
    for number in range(3 * _SETS * _WAYS):
        with ledger.account(str(number)) as used:
            used.tokens[0] = float(number)
    with pytest.raises(OverloadedError, match="has 1 streams open"), busy.stream():
        pass
    with ledger.account(str(3 * _SETS * _WAYS - 1)) as used:
        assert used.tokens[0] == 3 * _SETS * _WAYS - 1
    with ledger.account("0") as used:
        assert used.tokens[0] == 0
