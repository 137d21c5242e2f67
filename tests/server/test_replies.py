"""Gathering replies into messages."""

from typing import Any

import pytest

from hiddenstate.v1.language_model_pb2 import PredictStreamResponse
from hiddenstate_server.replies import Replies


def fill(reply: Any) -> int:
    """Writes 100 kB."""
    reply.response.state = bytes(100_000)
    return 100_000


def test_replies_gather_until_they_are_taken() -> None:
    replies = Replies(PredictStreamResponse)
    replies.add(1, 1, fill)
    replies.add(2, 5, fill)
    outgoing = replies.take()
    assert outgoing
    assert [reply.request_id for reply in outgoing.message.responses] == [1, 2]
    assert outgoing.weight == 6
    assert replies.take() is None


def test_a_message_is_cut_off_long_before_it_is_more_than_clients_take() -> None:
    replies = Replies(PredictStreamResponse)
    for request_id in range(100):
        replies.add(request_id, 1, fill)
    taken = []
    while outgoing := replies.take():
        taken.append(outgoing)
    assert [reply.request_id for outgoing in taken for reply in outgoing.message.responses] == list(range(100))
    assert max(outgoing.message.ByteSize() for outgoing in taken) < 2 * 2**20


def test_a_reply_that_cannot_be_filled_leaves_no_trace() -> None:
    def fail(reply: Any) -> int:
        reply.response.model = "half"
        raise ZeroDivisionError

    replies = Replies(PredictStreamResponse)
    replies.add(1, 1, fill)
    with pytest.raises(ZeroDivisionError):
        replies.add(2, 1, fail)
    outgoing = replies.take()
    assert outgoing
    assert [reply.request_id for reply in outgoing.message.responses] == [1]
    assert outgoing.weight == 1
