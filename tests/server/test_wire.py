"""Replies written by hand, as protobuf reads them."""

from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]  # not in its stubs
from hypothesis import given
from hypothesis import strategies as st

from hiddenstate.v1.language_model_pb2 import Candidate, PredictResponse, PredictStreamResponse, StreamedPredictResponse
from hiddenstate.v1.sentence_encoder_pb2 import EncodeResponse, EncodeStreamResponse, StreamedEncodeResponse
from hiddenstate.v1.usage_pb2 import RequestError
from hiddenstate.v1.usage_pb2 import Usage as UsageMessage
from hiddenstate_server.results import Usage
from hiddenstate_server.wire import EncodingWriter, PredictionWriter, streamed, varint

UINT32, UINT64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
USAGES = st.builds(Usage, UINT32, UINT32, UINT64, UINT64)
LOG_PROBS = st.floats(-200, 0, width=32) | st.just(float("-inf"))
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
MODELS = st.builds(SimpleNamespace, name=WORDS, version=WORDS)


def usage_message(usage: Usage) -> UsageMessage:
    return UsageMessage(**{name: getattr(usage, name) for name in Usage.__slots__})


@st.composite
def ranked(draw: st.DrawFn) -> tuple[list[str], frozenset[int], list[int], list[float]]:
    """Draws a vocabulary, the ids that are hidden, ids in some order, and their log probabilities."""
    words = draw(st.lists(WORDS, min_size=1, max_size=30))
    hidden = draw(st.frozensets(st.integers(0, len(words) - 1), max_size=3))
    ids = draw(st.lists(st.integers(0, len(words) - 1), unique=True))
    return words, hidden, ids, draw(st.lists(LOG_PROBS, min_size=len(ids), max_size=len(ids)))


@given(ranked(), st.integers(1, 40), st.binary(max_size=300), USAGES, MODELS)
def test_a_prediction_is_read_as_the_message_that_was_meant(
    drawn: tuple[list[str], frozenset[int], list[int], list[float]],
    top_k: int,
    state: bytes,
    usage: Usage,
    model: SimpleNamespace,
) -> None:
    words, hidden, ids, log_probs = drawn
    written = PredictionWriter(model, words, hidden).write(
        ids, np.array(log_probs, dtype=np.float32).tobytes(), top_k, state, usage
    )
    meant = PredictResponse(state=state, usage=usage_message(usage), model=model.name, model_version=model.version)
    for token_id, log_prob in zip(ids, log_probs, strict=True):
        if token_id not in hidden and log_prob != float("-inf") and len(meant.candidates) < top_k:
            meant.candidates.add(word=words[token_id], token_id=token_id, log_prob=log_prob)
    read = PredictResponse.FromString(written)
    assert read == meant
    assert read.SerializeToString(deterministic=True) == meant.SerializeToString(deterministic=True)


def test_a_vocabulary_of_many_thousand_words_has_long_ids() -> None:
    words = [f"w{number}" for number in range(20_000)]
    model = SimpleNamespace(name="m", version="1")
    ids = [0, 127, 128, 16_383, 16_384, 19_999]
    written = PredictionWriter(model, words, ()).write(ids, bytes(4 * len(ids)), len(ids), b"", Usage(0, 0, 0, 0))
    read = PredictResponse.FromString(written)
    assert list(read.candidates) == [Candidate(word=words[i], token_id=i, log_prob=0.0) for i in ids]
    assert read.HasField("usage")


def test_what_is_no_number_is_no_candidate() -> None:
    writer = PredictionWriter(SimpleNamespace(name="m", version="1"), ["a", "b"], ())
    log_probs = np.array([np.nan, -1.5], dtype=np.float32).tobytes()
    read = PredictResponse.FromString(writer.write([0, 1], log_probs, 2, b"", Usage(1, 2, 3, 4)))
    assert list(read.candidates) == [Candidate(word="b", token_id=1, log_prob=-1.5)]


@given(st.integers(0, 5), st.integers(1, 300), UINT32, USAGES, MODELS, st.integers(0, 2**32 - 1))
def test_an_encoding_is_read_as_the_message_that_was_meant(
    count: int, dimension: int, truncated: int, usage: Usage, model: SimpleNamespace, seed: int
) -> None:
    embeddings = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    meant = EncodeResponse(
        embeddings=embeddings.tobytes(),
        count=count,
        dimension=dimension,
        usage=usage_message(usage),
        truncated=truncated,
        model=model.name,
        model_version=model.version,
    )
    written = EncodingWriter(model, dimension).write([row.tobytes() for row in embeddings], truncated, usage)
    assert EncodeResponse.FromString(written) == meant


@given(st.lists(st.tuples(UINT64, st.sampled_from(["response", "error", "nothing"]), WORDS, UINT32), max_size=10))
def test_replies_of_a_stream_are_read_as_those_that_were_meant(replies: list[tuple[int, str, str, int]]) -> None:
    written, predicted, encoded = b"", PredictStreamResponse(), EncodeStreamResponse()
    for request_id, kind, text, number in replies:
        prediction, encoding = StreamedPredictResponse(), StreamedEncodeResponse()
        prediction.request_id = encoding.request_id = request_id
        error = RequestError(code=8, message=text, retry_after_ms=number) if kind == "error" else None
        # These bytes mean the same in both kinds of response: field 4 or 5 of them is the model's name.
        response = PredictResponse(model_version=text).SerializeToString() if kind == "response" else None
        if error is not None:
            prediction.error.CopyFrom(error)
            encoding.error.CopyFrom(error)
        if response is not None:
            prediction.response.MergeFromString(response)
            prediction.response.SetInParent()
            encoding.response.MergeFromString(response)
            encoding.response.SetInParent()
        predicted.responses.append(prediction)
        encoded.responses.append(encoding)
        written += streamed(request_id, response, None if error is None else error.SerializeToString())
    assert PredictStreamResponse.FromString(written) == predicted
    assert EncodeStreamResponse.FromString(written) == encoded


def test_an_empty_response_is_one() -> None:
    (reply,) = PredictStreamResponse.FromString(streamed(0, b"")).responses
    assert (reply.request_id, reply.WhichOneof("result")) == (0, "response")
    (reply,) = PredictStreamResponse.FromString(streamed(0, None)).responses
    assert (reply.request_id, reply.WhichOneof("result")) == (0, None)


@given(UINT64)
def test_numbers_of_any_length_are_written_as_protobuf_does(number: int) -> None:
    assert varint(number) == _VarintBytes(number)


@pytest.mark.parametrize("bits", range(64))
def test_numbers_at_the_edges_of_a_byte_are_written_as_protobuf_does(bits: int) -> None:
    for number in ((1 << bits) - 1, 1 << bits):
        assert varint(number) == _VarintBytes(number)
