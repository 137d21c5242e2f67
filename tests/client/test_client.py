import dataclasses
import math
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from client.fake_server import USAGE, FakeServer, RunningServer, endless, fall_silent, predicted
from hiddenstate import (
    CallCancelledError,
    Candidate,
    Client,
    DeadlineError,
    FinishReason,
    InvalidRequestError,
    MessageTooLargeError,
    ModelKind,
    ModelNotFoundError,
    OverloadedError,
    UnavailableError,
    Usage,
)
from hiddenstate.v1 import language_model_pb2 as lm


def test_a_prediction_has_candidates_with_probabilities_and_what_it_cost(client: Client) -> None:
    prediction = client.predict("I like", top_k=2)
    assert [candidate.word for candidate in prediction.candidates] == ["I like+0", "I like+1"]
    assert [candidate.token_id for candidate in prediction.candidates] == [0, 1]
    assert prediction.candidates[1].log_prob == pytest.approx(math.log(0.25))
    assert prediction.candidates[1].probability == pytest.approx(0.25)
    assert prediction.state is None
    assert (prediction.model, prediction.model_version) == ("english-lm", "1")
    assert prediction.usage == Usage(tokens_computed=4, tokens_reused=3, queue_time_us=20, compute_time_us=1000)


def test_a_candidate_is_what_its_constructor_makes(client: Client) -> None:
    (candidate,) = client.predict("I", top_k=1).candidates
    assert candidate == Candidate("I+0", candidate.log_prob, 0)
    assert candidate.log_prob == pytest.approx(math.log(0.5))
    assert candidate in {dataclasses.replace(candidate)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        candidate.word = "you"  # type: ignore[misc]


def test_five_candidates_are_asked_for_unless_told_otherwise(client: Client) -> None:
    assert len(client.predict("I like").candidates) == 5


def test_every_option_of_a_prediction_reaches_the_server(client: Client, fake: FakeServer) -> None:
    prediction = client.predict(
        tokens=[3, 5], top_k=7, prefix="th", state=b"before", return_state=True, model="m", model_version="9"
    )
    assert prediction.state == b"state"
    assert fake.requests == [
        lm.PredictRequest(
            tokens=lm.TokenIds(ids=[3, 5]),
            top_k=7,
            prefix="th",
            state=b"before",
            return_state=True,
            model="m",
            model_version="9",
        )
    ]


def test_every_option_of_a_generation_reaches_the_server(client: Client, fake: FakeServer) -> None:
    client.generate(
        "I",
        max_tokens=3,
        temperature=0.5,
        top_k=9,
        top_p=0.75,
        seed=2**63,
        stop_words=[".", "!"],
        state=b"before",
        return_state=True,
        model="m",
        model_version="9",
    ).text()
    assert fake.requests == [
        lm.GenerateRequest(
            text="I",
            max_tokens=3,
            temperature=0.5,
            top_k=9,
            top_p=0.75,
            seed=2**63,
            stop_words=[".", "!"],
            state=b"before",
            return_state=True,
            model="m",
            model_version="9",
        )
    ]


def test_what_is_not_given_to_a_generation_is_left_to_the_server(client: Client, fake: FakeServer) -> None:
    generation = client.generate("I")
    assert generation.seed is not None  # before any word has come
    generation.text()
    (request,) = fake.requests
    assert isinstance(request, lm.GenerateRequest)
    assert request.HasField("seed")  # the client's own: it has to know it where a server fails
    assert generation.seed == request.seed
    request.ClearField("seed")
    assert request == lm.GenerateRequest(text="I", max_tokens=50, temperature=1.0)


def test_generated_words_come_one_by_one_and_the_end_tells_why(client: Client) -> None:
    generation = client.generate("I", seed=7)
    assert generation.seed == 7
    assert next(generation).word == "a"
    assert generation.finish_reason is None
    assert [word.word for word in generation] == [",", "b"]
    assert generation.finish_reason is FinishReason.END_OF_TEXT
    assert (generation.seed, generation.state) == (7, b"end")
    assert generation.usage is not None
    assert generation.usage.tokens_computed == USAGE.tokens_computed


def test_a_generation_can_be_taken_as_text(client: Client) -> None:
    assert client.generate("I").text() == "a, b"


def test_the_text_of_a_generation_is_whole_whoever_took_its_words(client: Client) -> None:
    generation = client.generate("I")
    assert next(generation).word == "a"
    assert [generation.text(), generation.text()] == ["a, b"] * 2
    assert list(generation) == []
    client.close()
    assert generation.text() == "a, b"


def test_leaving_a_generation_stops_the_servers_work(client: Client, fake: FakeServer) -> None:
    stopped = endless(fake)
    with client.generate("I") as generation:
        assert next(generation).word == "a"
    assert stopped.wait(timeout=30)


def test_a_score_lists_the_tokens(client: Client) -> None:
    score = client.score("so it is")
    assert [token.token for token in score.tokens] == ["so", "it", "is"]
    assert score.tokens[0].probability == pytest.approx(math.exp(-2))
    assert score.log_prob == pytest.approx(-6)
    assert score.perplexity == pytest.approx(math.exp(2))


def test_models_are_described_in_plain_values(client: Client) -> None:
    lm_info, encoder_info = client.models()
    assert (lm_info.name, lm_info.kind, lm_info.parameters) == ("english-lm", ModelKind.LANGUAGE_MODEL, 14_400_000)
    assert lm_info.metrics == {"perplexity": 85.5}
    assert encoder_info.normalized
    assert client.model("english-encoder") == encoder_info
    with pytest.raises(ModelNotFoundError, match="no model 'other'"):
        client.model("other")


def test_text_and_tokens_together_are_refused(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="not both"):
        client.predict("I", tokens=[1])


def test_many_threads_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        words = list(pool.map(lambda i: client.predict(str(i), top_k=1).candidates[0].word, range(100)))
    assert words == [f"{i}+0" for i in range(100)]


def test_silence_ends_with_the_clients_deadline_or_the_calls_own(server: RunningServer, fake: FakeServer) -> None:
    fall_silent(fake)
    with Client(server.address, timeout_s=0.05) as client, pytest.raises(DeadlineError, match="timeout_s"):
        client.predict("I")
    with Client(server.address) as client, pytest.raises(DeadlineError):
        client.predict("I", timeout_s=0.05)


NO_TIMES = [0, -1.5, float("nan"), "x", [1]]


@pytest.mark.parametrize("timeout_s", NO_TIMES)
def test_a_timeout_that_is_no_time_is_refused_before_anything_is_sent(
    client: Client, fake: FakeServer, timeout_s: Any
) -> None:
    message = f"^timeout_s: is {re.escape(repr(timeout_s))}; it must be a number of seconds above 0$"
    for call in (client.predict, client.encode, client.score, client.generate, client.model):
        with pytest.raises(InvalidRequestError, match=message):
            call("I", timeout_s=timeout_s)
    with pytest.raises(InvalidRequestError, match=message):
        client.models(timeout_s=timeout_s)
    assert not fake.requests


@pytest.mark.parametrize("timeout_s", NO_TIMES)
def test_a_client_whose_timeout_is_no_time_is_not_made(timeout_s: Any) -> None:
    with pytest.raises(ValueError, match=r"^timeout_s: is .*; it must be a number of seconds above 0, or None for no"):
        Client(timeout_s=timeout_s)


@pytest.mark.parametrize("fake", ["streams"], indirect=True)
def test_a_timeout_that_is_no_time_leaves_a_context_as_it_was(client: Client) -> None:
    with client.open_stream() as stream, stream.context() as context:
        context.predict("I")
        with pytest.raises(InvalidRequestError, match=r"^timeout_s: is 0; "):
            context.predict("like", timeout_s=0)
        assert context.predict("it", top_k=1).candidates[0].word == "Iit+0"


@pytest.mark.parametrize("timeout_s", [float("inf"), 1e300])
def test_an_endless_timeout_is_no_deadline(client: Client, timeout_s: float) -> None:
    assert client.predict("I", timeout_s=timeout_s).candidates


@pytest.mark.parametrize("fake", ["streams"], indirect=True)
@pytest.mark.parametrize("timeout_s", [float("inf"), 1e300])
def test_an_endless_timeout_of_a_context_is_no_deadline(client: Client, timeout_s: float) -> None:
    with client.open_stream() as stream, stream.context() as context:
        assert context.predict("I", timeout_s=timeout_s).candidates


def test_no_server_at_the_address_is_said_with_the_address_and_what_to_do() -> None:
    with Client("127.0.0.1:9") as client, pytest.raises(UnavailableError) as caught:
        client.predict("I")
    assert str(caught.value) == (
        "no server answers at 127.0.0.1:9 (Connection refused); start one with `make serve` or `hiddenstate serve`"
    )
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_a_server_that_drains_is_told_with_one_advice(client: Client) -> None:
    reason = "is shutting down; send the call to another replica"
    with pytest.raises(UnavailableError, match=f"^the server at 127.0.0.1:[0-9]+ {reason}$"):
        client.predict(f"fail UNAVAILABLE the server {reason}")


def test_a_server_that_is_away_for_a_moment_is_asked_again(client: Client, fake: FakeServer) -> None:
    def first_time_unavailable(request: lm.PredictRequest, context: grpc.ServicerContext) -> lm.PredictResponse:
        if len(fake.requests) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        return predicted(request, "again")

    fake.predict = first_time_unavailable  # type: ignore[method-assign]
    assert client.predict("I", top_k=1).candidates[0].word == "again+0"


def test_a_full_queue_is_reported_at_once_to_a_single_call(client: Client, fake: FakeServer) -> None:
    with pytest.raises(OverloadedError, match="queue is full"):
        client.predict("fail RESOURCE_EXHAUSTED queue is full")
    assert len(fake.requests) == 1


def test_a_message_over_the_limit_is_told_from_a_full_queue(server: RunningServer) -> None:
    with Client(server.address, max_message_bytes=100) as client:
        limit = "is over the client's limit of 100"
        with pytest.raises(
            MessageTooLargeError, match=f"^a request of .* {limit}; send less at once, or raise .* max_message_bytes$"
        ):
            client.predict("x" * 1000)
        with pytest.raises(
            MessageTooLargeError, match=f"^a reply of .* {limit}; ask for less at once, or raise .* max_message_bytes$"
        ):
            client.predict("x", top_k=100)


@pytest.mark.parametrize("way", [("Received", "request", "send"), ("Sent", "reply", "ask for")])
def test_a_message_over_the_servers_limit_is_told_with_the_servers_option(client: Client, way: tuple[str, ...]) -> None:
    did, what, remedy = way
    message = (
        f"^a {what} of 5,000 bytes is over the server's limit of 4,096; "
        f"{remedy} less at once, or raise the server's --max-message-bytes$"
    )
    with pytest.raises(MessageTooLargeError, match=message):
        client.predict(f"fail RESOURCE_EXHAUSTED SERVER: {did} message larger than max (5000 vs. 4096)")


def test_a_closed_client_says_so(server: RunningServer) -> None:
    client = Client(server.address)
    client.close()
    for call in (client.predict, client.encode, client.score, client.generate):
        with pytest.raises(CallCancelledError, match="closed"):
            call("I")
    with pytest.raises(CallCancelledError, match="closed"):
        client.open_stream()


def test_closing_a_client_ends_a_call_of_another_thread(server: RunningServer, fake: FakeServer) -> None:
    fall_silent(fake)
    client = Client(server.address)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.predict, "I")
        assert fake.arrived.acquire(timeout=30)
        client.close()
        with pytest.raises(CallCancelledError):
            running.result()


def test_a_server_with_credentials_is_reached_with_credentials(fake: FakeServer) -> None:
    server = RunningServer(fake, grpc.local_server_credentials())
    with Client(server.address, credentials=grpc.local_channel_credentials()) as client:
        assert client.encode("a").shape == (1, 3)
    server.stop()


def test_arrays_of_token_ids_are_taken(client: Client, fake: FakeServer) -> None:
    client.predict(tokens=np.array([3, 5], dtype=np.int64))
    assert list(fake.requests[0].tokens.ids) == [3, 5]  # type: ignore[attr-defined]
