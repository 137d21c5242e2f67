"""Gathering replies into messages."""

from hiddenstate.v1.language_model_pb2 import PredictResponse, PredictStreamResponse
from hiddenstate_server.replies import Replies
from hiddenstate_server.wire import streamed


def reply(request_id: int) -> bytes:
    """Returns a reply of 100 kB."""
    return streamed(request_id, PredictResponse(state=bytes(100_000)).SerializeToString())


def test_replies_gather_until_they_are_taken() -> None:
    replies = Replies()
    replies.add(reply(1), 1)
    replies.add(reply(2), 5)
    outgoing = replies.take()
    assert outgoing
    message, weight = outgoing
    assert [each.request_id for each in PredictStreamResponse.FromString(message).responses] == [1, 2]
    assert weight == 6
    assert replies.take() is None


def test_a_message_is_cut_off_long_before_it_is_more_than_clients_take() -> None:
    replies = Replies()
    for request_id in range(100):
        replies.add(reply(request_id), 1)
    taken = []
    while outgoing := replies.take():
        taken.append(outgoing)
    messages = [PredictStreamResponse.FromString(message) for message, _ in taken]
    assert [each.request_id for message in messages for each in message.responses] == list(range(100))
    assert max(len(message) for message, _ in taken) < 2 * 2**20
    assert sum(weight for _, weight in taken) == 100
