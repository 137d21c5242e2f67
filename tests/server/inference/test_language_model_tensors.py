"""A language model by tensors: it answers as its own service does, and sequences append to their context."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

from hiddenstate.v1.language_model_pb2 import PredictRequest
from hiddenstate_server.inference.open_inference_pb2 import ModelInferResponse
from serving import Wire, failure, held, serving, until
from tensor_requests import request, step, tensors

LM = "tiny-lm"


def text(*texts: str, **more: object) -> dict[str, list[str]]:
    return {"text": list(texts), **more}  # type: ignore[dict-item]


async def predicted(wire: Wire, text: str, top_k: int = 5, prefix: str = "") -> list[tuple[str, int, float]]:
    answer = await wire.language_model.Predict(PredictRequest(text=text, top_k=top_k, prefix=prefix))
    return [(each.word, each.token_id, each.log_prob) for each in answer.candidates]


def row(response: ModelInferResponse, index: int = 0) -> list[tuple[str, int, float]]:
    answer = tensors(response)
    columns = answer["words"][index], answer["token_ids"][index], answer["log_probs"][index]
    return [(word.decode(), int(token), float(log_prob)) for word, token, log_prob in zip(*columns, strict=True)]


async def test_a_text_is_answered_as_by_predict(wire: Wire) -> None:
    response = await wire.inference.ModelInfer(request(LM, text("I would like to"), id="mine"))
    assert (response.model_name, response.model_version, response.id) == (LM, "1", "mine")
    assert row(response) == await predicted(wire, "I would like to")
    assert [(each.name, each.datatype, list(each.shape)) for each in response.outputs] == [
        ("words", "BYTES", [1, 5]),
        ("log_probs", "FP32", [1, 5]),
        ("token_ids", "INT64", [1, 5]),
    ]


async def test_an_empty_text_asks_for_the_first_word_alone_and_in_a_sequence(wire: Wire) -> None:
    assert row(await wire.inference.ModelInfer(request(LM, text("")))) == await predicted(wire, "")
    await wire.inference.ModelInfer(step(LM, text(""), 7, start=True))
    response = await wire.inference.ModelInfer(step(LM, text("I would"), 7, end=True))
    assert [each[:2] for each in row(response)] == [each[:2] for each in await predicted(wire, "I would")]


async def test_each_text_of_a_batch_has_its_own_number_of_words_and_its_own_prefix(wire: Wire) -> None:
    inputs = text("I would", "thank you", "the", prefix=["", "th", ""], top_k=np.array([2, 4, 3], np.int32))
    response = await wire.inference.ModelInfer(request(LM, inputs))
    assert row(response, 0)[:2] == await predicted(wire, "I would", 2)
    assert row(response, 1) == await predicted(wire, "thank you", 4, "th")
    assert row(response, 2)[:3] == await predicted(wire, "the", 3)
    assert row(response, 0)[2:] == [("", -1, -np.inf)] * 2


async def test_steps_of_a_sequence_append_to_its_context(wire: Wire) -> None:
    for id in (7, "seven"):
        await wire.inference.ModelInfer(step(LM, text("I would"), id, start=True))
        await wire.inference.ModelInfer(step(LM, text("like"), id))
        response = await wire.inference.ModelInfer(step(LM, text("to"), id, end=True))
        assert [each[:2] for each in row(response)] == [each[:2] for each in await predicted(wire, "I would like to")]


async def test_a_sequence_that_begins_again_forgets_what_it_was(wire: Wire) -> None:
    await wire.inference.ModelInfer(step(LM, text("I would"), 7, start=True))
    response = await wire.inference.ModelInfer(step(LM, text("thank you"), 7, start=True))
    assert row(response) == await predicted(wire, "thank you")


async def test_sequences_do_not_touch_each_other(wire: Wire) -> None:
    await wire.inference.ModelInfer(step(LM, text("I would"), 7, start=True))
    await wire.inference.ModelInfer(step(LM, text("thank"), "7", start=True))
    first, second = await asyncio.gather(
        wire.inference.ModelInfer(step(LM, text("like"), 7)), wire.inference.ModelInfer(step(LM, text("you"), "7"))
    )
    assert [each[0] for each in row(first)] == [each[0] for each in await predicted(wire, "I would like")]
    assert [each[0] for each in row(second)] == [each[0] for each in await predicted(wire, "thank you")]


async def test_a_failed_step_leaves_the_sequence_as_it_was(wire: Wire) -> None:
    await wire.inference.ModelInfer(step(LM, text("I would"), 7, start=True))
    failed = await failure(wire.inference.ModelInfer(step(LM, text("like", top_k=np.zeros(1, np.int32)), 7)))
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    response = await wire.inference.ModelInfer(step(LM, text("like"), 7))
    assert [each[0] for each in row(response)] == [each[0] for each in await predicted(wire, "I would like")]


@pytest.mark.parametrize("id", [7, "seven"])
async def test_a_sequence_has_to_begin_and_is_over_after_its_end(wire: Wire, id: int | str) -> None:
    never_begun = await failure(wire.inference.ModelInfer(step(LM, text("like"), id)))
    await wire.inference.ModelInfer(step(LM, text("I"), id, start=True, end=True))
    ended = await failure(wire.inference.ModelInfer(step(LM, text("like"), id)))
    assert {never_begun.code(), ended.code()} == {grpc.StatusCode.FAILED_PRECONDITION}
    assert "is not known here; begin it with sequence_start" in (never_begun.details() or "")
    assert "has ended; begin it with sequence_start" in (ended.details() or "")


async def test_sequences_beyond_their_memory_make_the_longest_silent_one_go(models_dir: Path) -> None:
    async with serving(models_dir, sequence_bytes=4096) as wire:
        for id in range(1, 9):
            await wire.inference.ModelInfer(step(LM, text("I"), id, start=True))
        await wire.inference.ModelInfer(step(LM, text("would"), 8))
        failed = await failure(wire.inference.ModelInfer(step(LM, text("would"), 1)))
    assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "was let go to make room for others" in (failed.details() or "")


async def test_a_caller_who_leaves_takes_the_rows_of_its_batch_along(wire: Wire) -> None:
    model = wire.server.repository.language_model()
    with held(model) as gate:
        call = wire.inference.ModelInfer(request(LM, text("I", "you", "the")))
        await gate.reached()
        call.cancel()
        await until(lambda: wire.metric("hiddenstate_requests_total", method="ModelInfer", code="CANCELLED") == 1)
        gate.open()
        await until(lambda: not model.scheduler.waiting_requests)


async def test_a_timeout_that_passes_while_the_request_waits_ends_it(wire: Wire) -> None:
    with held(wire.server.repository.language_model()) as gate:
        first = wire.inference.ModelInfer(request(LM, text("I")))
        await gate.reached()
        late = wire.inference.ModelInfer(request(LM, text("you"), timeout=1))
        await until(lambda: wire.metric("hiddenstate_requests_in_flight", method="ModelInfer") == 2)
        gate.open()
        assert (await failure(late)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await first
