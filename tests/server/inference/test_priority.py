"""The parameter `priority`: who may go first where calls wait."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.inference.parameters import read_parameters
from hiddenstate_server.inference.shape_queue import Call, ShapeQueue
from hiddenstate_server.scheduler import Step
from onnx_graphs import neighbours_matter
from serving import Wire
from tensor_requests import parameter, request
from tensor_serving import held, served


def call(fits: str, *, is_bulk: bool = False) -> Call:
    return Call(size=1, inputs={}, outputs=[], rows=1, fits=fits, is_bulk=is_bulk)


@pytest.mark.parametrize(("priority", "is_bulk"), [(0, False), (1, False), (2, True), (2**63 - 1, True)])
def test_a_lower_number_goes_first_and_0_is_the_default(priority: int, is_bulk: bool) -> None:
    assert read_parameters({"priority": parameter(priority)}).is_bulk == is_bulk


def test_a_negative_priority_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"^parameters: priority is -1; send 0 or 1 to go first, 2 or more"):
        read_parameters({"priority": parameter(-1)})


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("scale", {"x": np.zeros((1, 4), np.float32)}),
        ("tiny-lm", {"text": ["the"]}),
        ("tiny-encoder", {"sentences": ["the", "cat"]}),
    ],
)
async def test_work_of_every_kind_of_model_has_the_priority_of_its_call(
    tensors_wire: Wire, model: str, inputs: dict[str, Any]
) -> None:
    computed: list[bool] = []

    def recorded(step: Step) -> Step:
        def run(batch: Sequence[Any]) -> Sequence[Any]:
            computed.extend(work.is_bulk for work in batch)
            return step(batch)

        return run

    for scheduler in tensors_wire.server.repository.schedulers():
        scheduler._step = recorded(scheduler._step)
    for priority in (1, 2):
        await tensors_wire.inference.ModelInfer(request(model, inputs, priority=priority))
    assert computed == sorted(computed)
    assert set(computed) == {False, True}


async def test_interactive_calls_go_before_bulk_ones_that_waited_longer(tmp_path: Path) -> None:
    async with served(neighbours_matter(tmp_path)) as model:
        ended: list[str] = []

        async def run(name: str, *, is_bulk: bool = False) -> None:
            await model.infer({"x": np.zeros((1, 3), np.float32)}, is_bulk=is_bulk)
            ended.append(name)

        with held() as gate:
            calls = [asyncio.create_task(run("running"))]
            await gate.wait_entered()
            calls += [asyncio.create_task(run("bulk", is_bulk=True)), asyncio.create_task(run("interactive"))]
            for _ in range(5):  # both are handed in
                await asyncio.sleep(0)
            gate.open()
            await asyncio.gather(*calls)
        assert ended == ["running", "interactive", "bulk"]


def test_bulk_calls_ride_along_and_are_not_held_up_for_good() -> None:
    queue, bulk, other = ShapeQueue(max_batch=2), call("fits", is_bulk=True), call("other", is_bulk=True)
    for each in (other, bulk, *(call("fits") for _ in range(15))):
        queue.put(each)
    batches = [queue.take(sharers=1) for _ in range(5)]
    assert all(not each.is_bulk for batch in batches[:4] for each in batch)
    assert batches[4] == [other]  # its turn, and nobody fits beside it
    rest = [queue.take(sharers=1) for _ in range(4)]
    assert [bulk in batch for batch in rest] == [False, False, False, True]
    assert len(rest[-1]) == 2  # fills up the last interactive batch
    assert queue.take(sharers=1) == []
