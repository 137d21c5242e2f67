"""Encode and EncodeStream through the wire."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from bundles import WORDS
from hiddenstate.v1.sentence_encoder_pb2 import (
    EncodeRequest,
    EncodeResponse,
    EncodeStreamRequest,
    StreamedEncodeRequest,
    StreamedEncodeResponse,
)
from hiddenstate_server import streams
from serving import WAIT_S, Wire, failure, held, serving, until

SENTENCES = ["The car was new.", "Some of the time", "thank you"]
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def vectors(response: EncodeResponse) -> NDArray[np.float32]:
    """Returns the vectors of a response [count, dimension]."""
    return np.frombuffer(response.embeddings, dtype="<f4").reshape(response.count, response.dimension)


def sentences_of_mixed_length(count: int) -> list[str]:
    """Returns sentences of 1 to 60 words, drawn from a seed."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 60))) for _ in range(count)]


async def test_each_sentence_has_a_vector_of_length_one_in_its_place(wire: Wire) -> None:
    response = await wire.sentence_encoder.Encode(EncodeRequest(sentences=SENTENCES))
    assert (response.count, response.dimension, response.truncated) == (3, 12, 0)
    assert (response.model, response.model_version) == ("tiny-encoder", "1")
    np.testing.assert_allclose(np.linalg.norm(vectors(response), axis=1), 1, atol=1e-6)
    alone = await wire.sentence_encoder.Encode(EncodeRequest(sentences=SENTENCES[1:2]))
    np.testing.assert_allclose(vectors(alone)[0], vectors(response)[1], atol=1e-5)


async def test_a_vector_is_the_same_alone_and_among_64_sentences_of_mixed_lengths(wire: Wire) -> None:
    sentences = sentences_of_mixed_length(64)
    together = vectors(await wire.sentence_encoder.Encode(EncodeRequest(sentences=sentences)))
    for sentence, vector in zip(sentences, together, strict=True):
        alone = await wire.sentence_encoder.Encode(EncodeRequest(sentences=[sentence]))
        np.testing.assert_allclose(vectors(alone)[0], vector, rtol=0, atol=1e-5)


async def test_a_sentence_that_is_too_long_is_cut_and_counted_or_refused(wire: Wire) -> None:
    long = " ".join(["word"] * 70)
    cut = await wire.sentence_encoder.Encode(EncodeRequest(sentences=[long, "word"]))
    assert cut.truncated == 1
    shorter = await wire.sentence_encoder.Encode(EncodeRequest(sentences=[" ".join(["word"] * 64)]))
    np.testing.assert_allclose(vectors(cut)[0], vectors(shorter)[0], atol=1e-5)
    error = await failure(wire.sentence_encoder.Encode(EncodeRequest(sentences=[long], truncate=False)))
    assert (error.code(), "sentences[0]: has 70 tokens" in (error.details() or "")) == (INVALID, True)


@pytest.mark.parametrize(
    ("request_", "code", "named"),
    [
        (EncodeRequest(), INVALID, "sentences: is empty"),
        (EncodeRequest(sentences=["word", ""]), INVALID, "sentences[1]: is empty"),
        (EncodeRequest(sentences=["word"] * 10_000), INVALID, "sentences: has 10,000"),
        (EncodeRequest(sentences=["word"], model="nobody"), grpc.StatusCode.NOT_FOUND, "tiny-encoder version 1"),
        (EncodeRequest(sentences=["word"], model="tiny-lm"), grpc.StatusCode.NOT_FOUND, "tiny-encoder version 1"),
    ],
    ids=["none", "empty", "10,000", "unknown model", "language model"],
)
async def test_bad_input_is_refused_by_name_alone_and_in_a_stream(
    wire: Wire, request_: EncodeRequest, code: grpc.StatusCode, named: str
) -> None:
    error = await failure(wire.sentence_encoder.Encode(request_))
    assert error.code() is code
    assert named in (error.details() or "")
    replies = await stream(wire, StreamedEncodeRequest(request_id=1, encode=request_), streamed(2, "word"))
    assert replies[1].error.code == code.value[0]
    assert named in replies[1].error.message
    assert replies[2].response.count == 1


async def test_100_000_words_in_one_sentence_are_cut(wire: Wire) -> None:
    response = await wire.sentence_encoder.Encode(EncodeRequest(sentences=["word " * 100_000]))
    assert (response.count, response.truncated) == (1, 1)


async def test_a_stream_answers_as_the_unary_call_does(wire: Wire) -> None:
    replies = await stream(wire, *(streamed(number, sentence) for number, sentence in enumerate(SENTENCES)))
    expected = vectors(await wire.sentence_encoder.Encode(EncodeRequest(sentences=SENTENCES)))
    for number in range(3):
        np.testing.assert_allclose(vectors(replies[number].response)[0], expected[number], atol=1e-5)


async def test_a_stream_counts_sentences_for_its_bound(models_dir: Any) -> None:
    async with serving(models_dir, max_stream_pending=10) as wire:
        in_flight = {"method": "EncodeStream"}
        call = wire.sentence_encoder.EncodeStream()
        with held(wire.server.repository.sentence_encoder()) as gate:
            requests = [
                StreamedEncodeRequest(request_id=n, encode=EncodeRequest(sentences=["a"] * 4)) for n in range(5)
            ]
            await call.write(EncodeStreamRequest(requests=requests))
            await gate.reached()
            await until(lambda: wire.metric("hiddenstate_requests_in_flight", **in_flight) == 2)
        await call.done_writing()
        assert sum([len(message.responses) async for message in replies_of(call)]) == 5


async def test_time_limits_of_a_stream_count_from_when_a_request_was_read(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Requests look as if they had been read two minutes ago.
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=lambda: time.monotonic() - 120))
    encode = EncodeRequest(sentences=SENTENCES)
    limits = {1: 60_000, 2: 600_000, 3: None}
    replies = await stream(
        wire, *(StreamedEncodeRequest(request_id=n, encode=encode, timeout_ms=limit) for n, limit in limits.items())
    )
    assert replies[1].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert replies[2].response.embeddings == replies[3].response.embeddings != b""


async def test_what_lay_unread_longer_than_others_is_late_by_that(wire: Wire) -> None:
    call: Any = wire.sentence_encoder.EncodeStream()
    encode = EncodeRequest(sentences=SENTENCES)
    limits = {1: 2_000, 2: 60_000, 3: None}
    requests = [StreamedEncodeRequest(request_id=n, encode=encode, timeout_ms=limit) for n, limit in limits.items()]
    found = []
    for sent_at_us in (5_000_001, 1, 0):  # the second took five seconds longer; 0 tells nothing
        await call.write(EncodeStreamRequest(requests=requests, sent_at_us=sent_at_us))
        replies: dict[int, StreamedEncodeResponse] = {}
        while len(replies) < len(limits):
            replies |= {reply.request_id: reply for reply in (await call.read()).responses}
        found.append({number: replies[number].error.code for number in sorted(replies)})
    call.cancel()
    late = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert found == [{1: 0, 2: 0, 3: 0}, {1: late, 2: 0, 3: 0}, {1: 0, 2: 0, 3: 0}]
    unread = "hiddenstate_stream_message_unread_seconds"
    assert wire.metric(f"{unread}_count", method="EncodeStream") == 2
    assert wire.metric(f"{unread}_sum", method="EncodeStream") == pytest.approx(5, abs=0.5)
    # What a caller tells of its clock is nothing that the server's own durations hang on.
    assert wire.metric("hiddenstate_request_duration_seconds_sum", method="EncodeStream") < 2


async def test_a_request_that_is_heavier_than_the_bound_goes_alone(models_dir: Any) -> None:
    async with serving(models_dir, max_stream_pending=2) as wire:
        heavy = StreamedEncodeRequest(request_id=1, encode=EncodeRequest(sentences=["a"] * 50))
        replies = await stream(wire, streamed(0, "a"), heavy, streamed(2, "a"))
        assert replies[1].response.count == 50


async def test_a_cancelled_call_leaves_nothing_behind(one_runner: Wire) -> None:
    wire = one_runner
    model = wire.server.repository.sentence_encoder()
    with held(model) as gate:
        first = asyncio.ensure_future(stream(wire, streamed(1, "word")))
        await gate.reached()
        call = wire.sentence_encoder.Encode(EncodeRequest(sentences=["word"] * 500))
        await until(lambda: model.scheduler.waiting_requests == 501)
        call.cancel()
        await until(lambda: wire.metric("hiddenstate_requests_total", method="Encode", code="CANCELLED") == 1)
    await first
    await until(lambda: model.scheduler.waiting_requests == 0)
    dropped = {"model": "tiny-encoder", "version": "1", "reason": "cancelled"}
    assert wire.metric("hiddenstate_requests_dropped_total", **dropped) == 500


def streamed(request_id: int, sentence: str) -> StreamedEncodeRequest:
    """Returns a request for one sentence."""
    return StreamedEncodeRequest(request_id=request_id, encode=EncodeRequest(sentences=[sentence]))


async def stream(wire: Wire, *requests: StreamedEncodeRequest) -> dict[int, StreamedEncodeResponse]:
    """Opens a stream, sends requests in one message and returns the replies by request id."""
    call = wire.sentence_encoder.EncodeStream()
    await call.write(EncodeStreamRequest(requests=requests))
    await call.done_writing()
    return {reply.request_id: reply async for message in replies_of(call) for reply in message.responses}


async def replies_of(call: Any) -> Any:
    """Yields a stream's messages."""
    async with asyncio.timeout(WAIT_S):
        while (message := await call.read()) is not grpc.aio.EOF:
            yield message
