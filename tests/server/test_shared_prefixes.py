"""What one way of sending a context computed, the others do not compute again."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from hiddenstate.v1.language_model_pb2 import (
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    StreamedPredictRequest,
)
from serving import Wire

WORDS_SENT = ["I", "would", "like", "to", "thank", "you", "for", "the", "car"]
BOS = 1  # a text begins with a token of its own


def text(count: int) -> str:
    """Returns so many words."""
    return " ".join(WORDS_SENT[:count])


def cost(response: PredictResponse) -> tuple[int, int]:
    """Returns tokens (computed, reused)."""
    return response.usage.tokens_computed, response.usage.tokens_reused


async def call(wire: Wire, words: str, state: bytes = b"") -> PredictResponse:
    """Asks by a call of its own."""
    return await wire.language_model.Predict(PredictRequest(text=words, state=state, return_state=True))


class Stream:
    """A stream with one context."""

    def __init__(self, wire: Wire) -> None:
        self.call: Any = wire.language_model.PredictStream()

    async def append(self, words: str, state: bytes = b"") -> PredictResponse:
        """Appends words to the context, or to a state that takes its place."""
        predict = PredictRequest(text=words, state=state, return_state=True)
        request = StreamedPredictRequest(request_id=1, context_id=1, predict=predict)
        await self.call.write(PredictStreamRequest(requests=[request]))
        (reply,) = (await self.call.read()).responses
        assert reply.HasField("response"), reply.error
        response: PredictResponse = reply.response
        return response


@pytest_asyncio.fixture
async def stream(wire: Wire) -> AsyncIterator[Stream]:
    """An open stream."""
    stream = Stream(wire)
    yield stream
    stream.call.cancel()


async def test_a_text_goes_on_from_the_longest_beginning_that_was_sent(wire: Wire) -> None:
    assert cost(await call(wire, text(4))) == (4 + BOS, 0)
    assert cost(await call(wire, text(6))) == (2, 4 + BOS)
    assert cost(await call(wire, text(6))) == (0, 6 + BOS)
    assert cost(await call(wire, text(5))) == (1, 4 + BOS)


async def test_what_a_stream_came_to_is_found_by_the_whole_text(wire: Wire, stream: Stream) -> None:
    for word in WORDS_SENT[:5]:
        streamed = await stream.append(word)
    whole = await call(wire, text(5))
    assert cost(whole) == (0, 5 + BOS)
    assert whole.candidates == streamed.candidates
    assert whole.state == streamed.state
    assert cost(await call(wire, text(6))) == (1, 5 + BOS)


async def test_what_a_text_came_to_is_found_by_a_stream_that_appends_word_by_word(wire: Wire, stream: Stream) -> None:
    called = {count: await call(wire, text(count)) for count in range(1, 6)}
    for count, word in enumerate(WORDS_SENT[:5], start=1):
        streamed = await stream.append(word)
        assert cost(streamed) == (0, count + BOS)
        assert streamed.candidates == called[count].candidates
    assert cost(await stream.append(WORDS_SENT[5])) == (1, 5 + BOS)


async def test_streams_find_what_other_streams_came_to(wire: Wire, stream: Stream) -> None:
    await stream.append(text(3))
    await stream.append("to thank")
    other = Stream(wire)
    assert cost(await other.append(text(3))) == (0, 3 + BOS)
    assert cost(await other.append("to")) == (1, 3 + BOS)
    assert cost(await other.append("thank you")) == (1, 4 + 1 + BOS)
    other.call.cancel()


async def test_what_follows_a_state_is_found_by_whoever_sends_that_state(wire: Wire, stream: Stream) -> None:
    state = (await call(wire, text(3))).state
    assert cost(await call(wire, "to thank", state)) == (2, 3 + BOS)
    assert cost(await call(wire, "to thank you", state)) == (1, 3 + 2 + BOS)
    assert cost(await stream.append("to thank", state)) == (0, 5 + BOS)
    assert cost(await stream.append("you")) == (0, 6 + BOS)
    # By its words alone it is another context: what a caller sends as a state is not believed to come of a text.
    assert cost(await call(wire, text(5))) == (2, 3 + BOS)


async def test_words_after_one_state_are_not_found_after_another(wire: Wire) -> None:
    one, other = [(await call(wire, words)).state for words in ("The car", "Some of the")]
    answered = await call(wire, "was new", one)
    assert cost(await call(wire, "was new", other))[0] == 2
    assert (await call(wire, "was new", other)).candidates != answered.candidates


async def test_a_stream_that_goes_on_from_a_text_keeps_what_it_adds_for_texts(wire: Wire, stream: Stream) -> None:
    await call(wire, text(4))
    assert cost(await stream.append(text(4))) == (0, 4 + BOS)
    assert cost(await stream.append("thank")) == (1, 4 + BOS)
    assert cost(await call(wire, text(5))) == (0, 5 + BOS)
