"""Bulk encoding, by both clients: order, bounds, garbage and failures in the middle."""

import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from client.fake_server import FakeServer, RunningServer, encoded
from hiddenstate import (
    AsyncClient,
    Client,
    InvalidReplyError,
    InvalidRequestError,
    ModelChangedError,
    ModelFailedError,
    OverloadedError,
)
from hiddenstate.encoding import CALLS_IN_FLIGHT
from hiddenstate.v1 import sentence_encoder_pb2 as se

SENTENCES = [chr(97 + i % 26) * (i % 50 + 1) for i in range(1000)]
VECTORS = np.array([(len(s), ord(s[0]), 1) for s in SENTENCES], dtype=np.float32)


def test_vectors_come_in_the_order_of_the_sentences(client: Client, fake: FakeServer) -> None:
    embeddings = client.encode(SENTENCES, batch_size=64)
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, VECTORS)
    assert [len(request.sentences) for request in requests_of(fake)].count(64) == 15


async def test_vectors_come_in_the_order_of_the_sentences_with_asyncio(server: RunningServer) -> None:
    async with AsyncClient(server.address) as client:
        np.testing.assert_array_equal(await client.encode(SENTENCES, batch_size=64), VECTORS)


def test_order_holds_where_the_first_call_is_the_slowest(client: Client, fake: FakeServer) -> None:
    others = threading.Semaphore(0)

    def first_last(request: se.EncodeRequest, context: grpc.ServicerContext) -> se.EncodeResponse:
        if request.sentences[0] == SENTENCES[0]:
            for _ in range(CALLS_IN_FLIGHT - 1):
                assert others.acquire(timeout=30)
        others.release()
        return FakeServer.encode(fake, request, context)

    client.encode("a")  # from here on it is known whether there are streams
    fake.encode = first_last  # type: ignore[method-assign]
    np.testing.assert_array_equal(client.encode(SENTENCES[:8], batch_size=2), VECTORS[:8])


def test_no_more_than_four_calls_are_under_way_and_sentences_are_taken_as_needed(
    client: Client, fake: FakeServer
) -> None:
    taken = []

    def sentences() -> Iterator[str]:
        for sentence in SENTENCES:
            taken.append(sentence)
            yield sentence

    batches = client.encode_batches(sentences(), batch_size=1)
    next(batches)
    assert len(taken) <= CALLS_IN_FLIGHT + 2
    batches.close()  # type: ignore[attr-defined]


def test_one_sentence_gives_one_row(client: Client) -> None:
    assert client.encode("abc").tolist() == [[3, 97, 1]]


def test_no_sentences_give_no_rows_of_the_models_dimension(client: Client) -> None:
    assert client.encode([]).shape == (0, 3)


def test_the_array_is_the_callers_own(client: Client) -> None:
    embeddings = client.encode(["abc"])
    embeddings /= 2
    assert embeddings.tolist() == [[1.5, 48.5, 0.5]]


def test_options_reach_the_server(client: Client, fake: FakeServer) -> None:
    client.encode(["a", "b"], truncate=False, model="m", model_version="9")
    assert fake.requests == [se.EncodeRequest(sentences=["a", "b"], truncate=False, model="m", model_version="9")]


def test_long_sentences_go_in_smaller_calls(client: Client, fake: FakeServer) -> None:
    client.encode(["x" * 300_000] * 3)
    assert [len(request.sentences) for request in requests_of(fake)] == [1, 1, 1]


def test_batches_tell_how_many_sentences_were_cut(client: Client, fake: FakeServer) -> None:
    fake.encode = lambda request, context: encoded([(1, 2, 3)], truncated=1)  # type: ignore[method-assign]
    (batch,) = client.encode_batches(["a"])
    assert (batch.truncated, batch.model, batch.model_version) == (1, "english-encoder", "2")


@pytest.mark.parametrize(
    ("response", "complaint"),
    [
        (encoded([(1, 2)]), "2 sentences were sent, but 1 vectors came back"),
        (se.EncodeResponse(embeddings=bytes(23), count=2, dimension=3), "24 bytes, but 23 came back"),
        (se.EncodeResponse(embeddings=b"", count=2, dimension=0), "2 vectors of 0 float32"),
    ],
)
def test_a_reply_that_contradicts_itself_is_not_taken_for_vectors(
    client: Client, fake: FakeServer, response: se.EncodeResponse, complaint: str
) -> None:
    fake.encode = lambda request, context: response  # type: ignore[method-assign]
    with pytest.raises(InvalidReplyError, match=complaint):
        client.encode(["a", "b"])


def test_vectors_of_two_model_versions_are_never_mixed(client: Client, fake: FakeServer) -> None:
    def by_sentence(request: se.EncodeRequest, context: grpc.ServicerContext) -> se.EncodeResponse:
        return encoded([(1, 2)], version=request.sentences[0])

    fake.encode = by_sentence  # type: ignore[method-assign]
    with pytest.raises(ModelChangedError, match=r"from english-encoder 1 .* to english-encoder 2"):
        client.encode(["1", "2"], batch_size=1)


def test_a_call_that_fails_fails_the_whole(client: Client) -> None:
    with pytest.raises(ModelFailedError, match="out of memory"):
        client.encode(["a", "fail INTERNAL out of memory", "b"], batch_size=1)


async def test_a_call_that_fails_fails_the_whole_with_asyncio(server: RunningServer) -> None:
    async with AsyncClient(server.address) as client:
        with pytest.raises(ModelFailedError, match="out of memory"):
            await client.encode(["a", "fail INTERNAL out of memory", "b"], batch_size=1)


def test_bulk_waits_for_room_in_the_servers_queue(client: Client, fake: FakeServer) -> None:
    def full_at_first(request: se.EncodeRequest, context: grpc.ServicerContext) -> se.EncodeResponse:
        if len(fake.requests) <= 2:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "1"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full")
        return FakeServer.encode(fake, request, context)

    fake.encode = full_at_first  # type: ignore[method-assign]
    np.testing.assert_array_equal(client.encode(SENTENCES[:4], batch_size=4), VECTORS[:4])


TOO_LARGE = "this request has 9 tokens, the queue takes 8; send it in smaller parts"


def test_what_can_never_fit_is_sent_once(client: Client, fake: FakeServer) -> None:
    with pytest.raises(OverloadedError, match=TOO_LARGE):
        client.encode(f"fail RESOURCE_EXHAUSTED {TOO_LARGE}")
    assert len(fake.requests) == 1


async def test_what_can_never_fit_is_sent_once_with_asyncio(server: RunningServer, fake: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        with pytest.raises(OverloadedError, match=TOO_LARGE):
            await client.encode(f"fail RESOURCE_EXHAUSTED {TOO_LARGE}")
    assert len(fake.requests) == 1


@pytest.mark.parametrize("wrong", [None, float("nan"), b"bytes"])
def test_what_is_no_sentence_is_named_with_its_place(client: Client, wrong: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"sentences\[2\]: .* must be a str"):
        client.encode(["a", "b", wrong], batch_size=2)  # type: ignore[list-item]


def test_a_sentence_that_is_not_unicode_is_named_with_its_place(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"sentences\[3\]: .*surrogate"):
        client.encode(["a", "b", "c", "d\udcff"], batch_size=2)


def refuse(fake: FakeServer) -> None:
    """Has the server refuse an empty sentence, by its place in the call, and more than 50 in one call."""

    def encode(request: se.EncodeRequest, context: grpc.ServicerContext) -> se.EncodeResponse:
        sentences = list(request.sentences)
        if len(sentences) > 50:
            message = f"sentences: has {len(sentences):,}, one call may have 50 (--max-sentences); send them in several"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        if "bad" in sentences:
            message = f"sentences[{sentences.index('bad')}]: is empty; leave it out"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        return FakeServer.encode(fake, request, context)

    fake.encode = encode  # type: ignore[method-assign]


@pytest.mark.parametrize("place", [3, 77])
@pytest.mark.parametrize("batch_size", [10, 50])
async def test_a_sentence_that_the_server_refuses_is_counted_over_all(
    client: Client, server: RunningServer, fake: FakeServer, place: int, batch_size: int
) -> None:
    refuse(fake)
    sentences = ["ok"] * 100
    sentences[place] = "bad"
    message = rf"^sentences\[{place}\]: is empty; leave it out$"
    with pytest.raises(InvalidRequestError, match=message):
        client.encode(sentences, batch_size=batch_size)
    with pytest.raises(InvalidRequestError, match=message):
        list(client.encode_batches(sentences, batch_size=batch_size))
    async with AsyncClient(server.address) as async_client:
        with pytest.raises(InvalidRequestError, match=message):
            await async_client.encode(sentences, batch_size=batch_size)
        with pytest.raises(InvalidRequestError, match=message):
            _ = [batch async for batch in async_client.encode_batches(sentences, batch_size=batch_size)]


@pytest.mark.parametrize("count", [60, 150])  # a call of its own, and one of several
async def test_a_batch_that_is_more_than_the_server_takes_is_told_as_a_batch_size(
    client: Client, server: RunningServer, fake: FakeServer, count: int
) -> None:
    refuse(fake)
    message = r"^batch_size: let 60 sentences go in one call, which may have 50 \(.*--max-sentences\); lower it$"
    with pytest.raises(InvalidRequestError, match=message):
        client.encode(["ok"] * count, batch_size=60)
    async with AsyncClient(server.address) as async_client:
        with pytest.raises(InvalidRequestError, match=message):
            await async_client.encode(["ok"] * count, batch_size=60)


def test_a_batch_size_below_one_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="batch_size: is 0"):
        client.encode(["a"], batch_size=0)


def requests_of(fake: FakeServer) -> list[se.EncodeRequest]:
    return [request for request in fake.requests if isinstance(request, se.EncodeRequest)]
