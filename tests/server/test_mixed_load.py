"""Random mixes of everything at once, against the same requests one at a time."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundles import WORDS
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.context import Context, HeldContext
from hiddenstate_server.errors import DeadlineError
from hiddenstate_server.generation import GenerateOptions
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.prefix_cache import _ENTRY_OVERHEAD_BYTES
from hiddenstate_server.repository import Repository

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Request:
    """One request: what is asked, of which text, and what becomes of it."""

    kind: str  # predict, prefix, held, score or generate
    text: str
    seed: int
    fate: str  # answered, cancelled or expired
    patience: int  # turns of the event loop before it is cancelled
    is_bulk: bool

    @property
    def order(self) -> dict[str, Any]:
        """When it has to be answered, and who goes first."""
        return {"deadline": 0.0 if self.fate == "expired" else float("inf"), "is_bulk": self.is_bulk}


TEXTS = st.lists(st.sampled_from(WORDS[:20]), min_size=1, max_size=70).map(" ".join)
REQUESTS = st.builds(
    Request,
    kind=st.sampled_from(["predict", "prefix", "held", "score", "generate"]),
    text=TEXTS,
    seed=st.integers(0, 2**63 - 1),
    fate=st.sampled_from(["answered"] * 4 + ["cancelled", "expired"]),
    patience=st.integers(0, 30),
    is_bulk=st.booleans(),
)


async def ask(model: LanguageModel, request: Request) -> Any:
    context, order = Context(text=request.text), request.order
    if request.kind == "score":
        return [t.log_prob for t in (await model.score(context, **order)).tokens]
    if request.kind == "generate":
        options = GenerateOptions(max_tokens=6, seed=request.seed, return_state=True)
        tokens = [t async for t in model.generate(context, options=options, **order)]
        return [t.token_id for t in tokens], tokens[-1].finish_reason
    if request.kind == "held":
        return await append_word_by_word(model, request)
    prefix = request.text[:1] if request.kind == "prefix" else ""
    prediction = await model.predict(context, prefix=prefix, top_k=7, **order)
    return [(c.word, c.log_prob) for c in prediction.candidates]


async def append_word_by_word(model: LanguageModel, request: Request) -> Any:
    held, order = HeldContext(), request.order
    for word in request.text.split()[:12]:
        prediction = await model.predict(Context(text=word), held=held, **order)
    return [(c.word, c.log_prob) for c in prediction.candidates]


async def meet_fate(model: LanguageModel, request: Request) -> Any:
    task = asyncio.create_task(ask(model, request))
    if request.fate == "cancelled":
        for _ in range(request.patience):
            await asyncio.sleep(0)
        task.cancel()
    try:
        return await task
    except (asyncio.CancelledError, DeadlineError) as error:
        return type(error)


def assert_alike(answer: Any, wanted: Any, request: Request) -> None:
    if request.kind == "score":
        np.testing.assert_allclose(answer, wanted, atol=TOLERANCE)
    elif request.kind == "generate":
        assert answer == wanted
    else:
        np.testing.assert_allclose([p for _, p in answer], [p for _, p in wanted], atol=TOLERANCE)
        # Words that are as likely as each other may change places, and the last one may give way.
        likelihoods, last = dict(wanted), wanted[-1][1]
        for word, log_prob in answer:
            assert abs(log_prob - likelihoods.get(word, last)) <= TOLERANCE


async def with_model(models_dir: Any, runners: int, use: Callable[[Repository, LanguageModel], Awaitable[Any]]) -> Any:
    loop = asyncio.get_running_loop()
    # A small batch and a small cache, so that work waits and states are evicted.
    engine = EngineSettings(max_batch=5, cache_bytes=6_000, runners=runners)
    repository = Repository.open(models_dir, settings=engine, metrics=Metrics(), loop=loop)
    try:
        return await use(repository, repository.language_model())
    finally:
        repository.close()


def assert_nothing_waits(repository: Repository) -> None:
    for model in repository.models():
        scheduler = model.scheduler
        admission = scheduler._admission
        assert (scheduler.waiting_requests, scheduler.waiting_tokens, admission._waiting_interactive) == (0, 0, 0)
    cache = repository.cache
    assert cache.bytes == sum(len(state) + _ENTRY_OVERHEAD_BYTES for state in cache._states.values())
    assert cache.bytes <= cache.budget_bytes
    assert sum(count for lengths in cache._lengths.values() for count in lengths.values()) == cache.entries


@pytest.mark.timeout(300)
@pytest.mark.parametrize("runners", [1, 2, 3])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(REQUESTS, min_size=1, max_size=40))
def test_everything_at_once_answers_as_everything_alone(models_dir: Any, runners: int, requests: list[Request]) -> None:
    async def alone(repository: Repository, model: LanguageModel) -> list[Any]:
        return [await meet_fate(model, dataclasses.replace(request, fate="answered")) for request in requests]

    async def together(repository: Repository, model: LanguageModel) -> list[Any]:
        answers = await asyncio.gather(*(meet_fate(model, request) for request in requests))
        assert await repository.drain(timeout_s=30)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        assert not tasks
        assert_nothing_waits(repository)
        return list(answers)

    wanted = asyncio.run(with_model(models_dir, 1, alone))
    answers = asyncio.run(with_model(models_dir, runners, together))
    for request, answer, reference in zip(requests, answers, wanted, strict=True):
        if request.fate == "expired":
            assert answer is DeadlineError
        elif answer is asyncio.CancelledError:
            assert request.fate == "cancelled"
        else:
            assert_alike(answer, reference, request)
