"""Requests written by hand, as protobuf reads them."""

import re
from typing import Any

import pytest
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]  # not in its stubs
from hypothesis import given
from hypothesis import strategies as st

from hiddenstate import InvalidRequestError
from hiddenstate.requests import encode_request, predict_request
from hiddenstate.streamed_requests import (
    ENCODINGS,
    PREDICTIONS,
    appending,
    encoding,
    prediction,
    unwrapped_encoding,
    unwrapped_prediction,
    wrapped_encoding,
)
from hiddenstate.v1.language_model_pb2 import PredictRequest, PredictStreamRequest, StreamedPredictRequest
from hiddenstate.v1.sentence_encoder_pb2 import EncodeStreamRequest, StreamedEncodeRequest
from hiddenstate.wire import varint

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
PRIORITIES = st.sampled_from([None, "interactive", "bulk"])
REQUEST_IDS = st.integers(0, 2**64 - 1)
ENCODE_OPTIONS = st.fixed_dictionaries(
    {"truncate": st.booleans(), "model": TEXTS, "model_version": TEXTS, "priority": PRIORITIES}
)
PREDICT_OPTIONS = st.fixed_dictionaries(
    {
        "tokens": st.none() | st.lists(st.integers(0, 2**32 - 1), max_size=5),
        "top_k": st.integers(1, 300),
        "prefix": TEXTS,
        "state": st.none() | st.binary(min_size=1, max_size=300),
        "return_state": st.booleans(),
        "model": TEXTS,
        "model_version": TEXTS,
        "priority": PRIORITIES,
    }
)
NO_OPTIONS: dict[str, Any] = {
    "tokens": None,
    "top_k": 5,
    "prefix": "",
    "state": None,
    "return_state": False,
    "model": "",
    "model_version": "",
    "priority": None,
}


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_written_as_protobuf_writes_it(number: int) -> None:
    assert varint(number) == _VarintBytes(number)


@pytest.mark.parametrize("power", range(64))
def test_a_number_at_a_border_is_written_as_protobuf_writes_it(power: int) -> None:
    for number in (2**power - 1, 2**power, 2**power + 1):
        assert varint(number) == _VarintBytes(number)


@given(st.lists(TEXTS, min_size=1, max_size=5), ENCODE_OPTIONS)
def test_sentences_are_read_as_the_message_that_was_meant(sentences: list[str], options: dict[str, Any]) -> None:
    meant = encode_request(sentences, **options)
    assert unwrapped_encoding(encoding(sentences, **options)) == meant
    assert unwrapped_encoding(wrapped_encoding(meant)) == meant


@given(st.none() | TEXTS, PREDICT_OPTIONS)
def test_a_prediction_is_read_as_the_message_that_was_meant(text: str | None, options: dict[str, Any]) -> None:
    if options["tokens"] is not None:
        text = None
    meant = predict_request(text, **options)
    read = unwrapped_prediction(prediction(text, **options))
    assert read == meant
    assert read.WhichOneof("context") == meant.WhichOneof("context")


@given(st.lists(st.tuples(TEXTS, REQUEST_IDS), max_size=5))
def test_sealed_requests_that_are_joined_are_one_message(requests: list[tuple[str, int]]) -> None:
    meant = EncodeStreamRequest()
    sealed = []
    for sentence, request_id in requests:
        options: dict[str, Any] = {"truncate": True, "model": "", "model_version": "", "priority": None}
        encode = encode_request([sentence], **options)
        meant.requests.append(StreamedEncodeRequest(request_id=request_id, encode=encode, timeout_ms=1501))
        sealed.append(ENCODINGS.seal(encoding([sentence], **options), request_id, 1.5))
    meant.sent_at_us = 1_234_567_890_123
    assert EncodeStreamRequest.FromString(ENCODINGS.join(sealed, 1_234_567_890_123, 2**18)) == meant


@pytest.mark.parametrize("now_us", [1, 2**64 - 1])
def test_a_message_is_never_larger_than_it_may_be_and_tells_its_time_where_that_fits(now_us: int) -> None:
    sealed = [PREDICTIONS.seal(prediction("a" * 100, **NO_OPTIONS), number, None) for number in range(3)]
    size = sum(map(len, sealed))
    for most_bytes in range(size, size + 30):
        message = PREDICTIONS.join(sealed, now_us, most_bytes)
        assert len(message) <= most_bytes
        read = PredictStreamRequest.FromString(message)
        assert len(read.requests) == 3
        assert read.sent_at_us == (now_us if most_bytes >= size + 11 else 0)


@pytest.mark.parametrize(
    ("timeout_s", "timeout_ms"),
    [(0.25, 251), (-1.0, 1), (0.0, 1), (1e-9, 1), (3e6, 3_000_000_001), (1e8, 2**32 - 1), (None, None)],
)
def test_a_time_limit_is_whole_milliseconds_and_never_none_at_all(
    timeout_s: float | None, timeout_ms: int | None
) -> None:
    request = appending(7, PredictRequest(text="a"), close_context=True)
    sealed = PredictStreamRequest.FromString(PREDICTIONS.seal(request, 3, timeout_s))
    meant = StreamedPredictRequest(
        request_id=3, context_id=7, predict=PredictRequest(text="a"), close_context=True, timeout_ms=timeout_ms
    )
    assert list(sealed.requests) == [meant]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": b"\xff"}, "text: is b'\\xff'; it must be a str; decode bytes first"),
        ({"text": 5}, "text: is 5; it must be a str"),
        ({"prefix": 0}, "prefix: is 0; it must be a str"),
        ({"model": ["a"]}, "model: is ['a']; it must be a str"),
        ({"top_k": 0.5}, "top_k: is 0.5; it must be a whole number of at least 1 (below 2**32)"),
        ({"return_state": "yes"}, "return_state: is 'yes'; it must be True or False"),
    ],
)
def test_what_cannot_be_written_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{re.escape(message)}$"):
        prediction(**{"text": "a", **NO_OPTIONS, **options})


def test_an_option_of_an_encoding_that_cannot_be_written_is_named() -> None:
    with pytest.raises(InvalidRequestError, match=r"^model: is 5; it must be a str$"):
        encoding(["a"], truncate=True, model=5, model_version="", priority=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=r"^model_version: is \['1'\]; it must be a str$"):
        encoding(["a"], truncate=True, model="", model_version=["1"], priority=None)  # type: ignore[arg-type]
