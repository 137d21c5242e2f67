"""How waiting requests are cut into messages."""

from concurrent.futures import Future

import pytest

from hiddenstate import MessageTooLargeError
from hiddenstate.outbox import Outbox


def outbox(sizes: list[int], most_bytes: int = 2**30) -> tuple[Outbox, list[Future[None]]]:
    waiting = Outbox(most_bytes)
    senders: list[Future[None]] = []
    for number, size in enumerate(sizes, start=1):
        senders.append(Future())
        waiting.append((f"{number} {'x' * size}".encode(), senders[-1]))
    return waiting, senders


def taken(waiting: Outbox) -> list[list[int]]:
    messages = []
    while requests := waiting.take():
        messages.append([int(request.split()[0]) for request in requests])
    return messages


def test_what_fits_leaves_together_and_in_order() -> None:
    waiting, _ = outbox([10] * 5)
    assert taken(waiting) == [[1, 2, 3, 4, 5]]


def test_a_message_is_cut_before_it_is_too_large_and_a_large_request_goes_by_itself() -> None:
    waiting, _ = outbox([100_000, 100_000, 100_000, 700_000, 10])
    assert taken(waiting) == [[1, 2], [3], [4], [5]]


def test_a_request_over_the_limit_fails_and_the_others_leave() -> None:
    waiting, senders = outbox([10, 5000, 10], most_bytes=1000)
    assert taken(waiting) == [[1, 3]]
    with pytest.raises(MessageTooLargeError, match="limit of 1,000"):
        senders[1].result(0)


def test_what_nobody_waits_for_is_not_sent_however_much_it_is() -> None:
    waiting, senders = outbox([10] * 3000)
    for sender in senders[:-1]:
        sender.cancel()
    assert taken(waiting) == [[3000]]
    assert not waiting
