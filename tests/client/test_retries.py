"""Calls that are made again: when the server says, while the budget lasts, and within the deadline."""

import itertools
import time
from typing import NoReturn

import grpc
import pytest

from client.fake_server import FakeServer, RunningServer, predicted
from hiddenstate import AsyncClient, Client, OverloadedError, UnavailableError
from hiddenstate.budget import RetryBudget
from hiddenstate.errors import CallCancelledError, HiddenstateError
from hiddenstate.retries import Retries
from hiddenstate.streaming import StreamEndedError
from hiddenstate.v1 import language_model_pb2 as lm

HINT_S = 0.15
FULL = OverloadedError("full", retry_after_s=0.2)


def refuse_with_hint(context: grpc.ServicerContext, hint_ms: int) -> NoReturn:
    context.set_trailing_metadata((("grpc-retry-pushback-ms", str(hint_ms)),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    raise AssertionError("abort raises")


def busy(fake: FakeServer, times: int, hint_ms: int = round(1000 * HINT_S)) -> list[float]:
    """Makes the server refuse so many predictions with a hint; returns when each came."""
    came: list[float] = []

    def predict(request: lm.PredictRequest, context: grpc.ServicerContext) -> lm.PredictResponse:
        came.append(time.monotonic())
        if len(came) <= times:
            refuse_with_hint(context, hint_ms)
        return predicted(request, request.text)

    fake.predict = predict  # type: ignore[method-assign]
    return came


def test_a_call_comes_again_when_the_server_says(client: Client, fake: FakeServer) -> None:
    came = busy(fake, 2)
    assert client.predict("I").candidates
    assert len(came) == 3
    assert all(later - earlier >= HINT_S for earlier, later in itertools.pairwise(came))


async def test_a_call_of_a_task_comes_again_when_the_server_says(server: RunningServer, fake: FakeServer) -> None:
    came = busy(fake, 2)
    async with AsyncClient(server.address) as client:
        assert (await client.predict("I")).candidates
    assert all(later - earlier >= HINT_S for earlier, later in itertools.pairwise(came))


def test_a_score_comes_again_when_the_server_says(client: Client, fake: FakeServer) -> None:
    answer, came = fake.Score, []

    def score(request: lm.ScoreRequest, context: grpc.ServicerContext) -> lm.ScoreResponse:
        came.append(time.monotonic())
        if len(came) == 1:
            refuse_with_hint(context, round(1000 * HINT_S))
        return answer(request, context)

    fake.Score = score  # type: ignore[method-assign]
    with RunningServer(fake) as server, Client(server.address) as other:
        assert other.score("I like").tokens
    assert came[1] - came[0] >= HINT_S


def test_a_server_that_stays_busy_is_told_of_after_four_attempts(client: Client, fake: FakeServer) -> None:
    came = busy(fake, 99, hint_ms=1)
    with pytest.raises(OverloadedError, match="full") as caught:
        client.predict("I")
    assert caught.value.retry_after_s == 0.001
    assert len(came) == 4


def test_no_call_waits_for_a_time_after_its_deadline(client: Client, fake: FakeServer) -> None:
    came = busy(fake, 99, hint_ms=60_000)
    with pytest.raises(OverloadedError):
        client.predict("I", timeout_s=30)
    assert len(came) == 1


def test_the_pause_is_never_shorter_than_the_hint_and_grows() -> None:
    retries = Retries((), RetryBudget())
    pauses = [retries.back_off(FULL, 10.0) for _ in range(3)]
    assert all(0.2 <= pause < 0.49 for pause in pauses)
    with pytest.raises(OverloadedError):
        retries.back_off(FULL, 10.0)


def test_a_spent_budget_ends_retries_and_replies_earn_them_back() -> None:
    budget = RetryBudget()
    while budget.spend(grpc.StatusCode.RESOURCE_EXHAUSTED):
        pass
    with pytest.raises(OverloadedError):
        Retries((), budget).back_off(FULL, 10.0)
    budget.earn(10)
    assert Retries((), budget).back_off(FULL, 10.0)
    with pytest.raises(OverloadedError):
        Retries((), budget).back_off(FULL, 10.0)


def test_a_budget_pays_for_more_calls_to_a_server_that_is_not_there() -> None:
    def count(code: grpc.StatusCode) -> int:
        budget, spent = RetryBudget(), 0
        while budget.spend(code):
            spent += 1
        return spent

    assert count(grpc.StatusCode.UNAVAILABLE) > 5 * count(grpc.StatusCode.RESOURCE_EXHAUSTED)


@pytest.mark.parametrize("error", [CallCancelledError("closed"), UnavailableError("gone")])
def test_what_a_closed_client_or_a_short_deadline_leaves_is_raised(error: HiddenstateError) -> None:
    retries = Retries((grpc.StatusCode.UNAVAILABLE,), RetryBudget())
    with pytest.raises(type(error)):
        retries.pause(StreamEndedError(error, worked=False), 0.0)


def test_a_stream_that_broke_for_a_reason_that_was_lost_is_left_for_a_call_of_its_own() -> None:
    retries = Retries((grpc.StatusCode.UNAVAILABLE,), RetryBudget())
    lost = StreamEndedError(UnavailableError("broke off"), worked=False, is_unclear=True)
    assert retries.pause(lost, 10.0) is None
