"""One tensor model behind a real scheduler, and a gate that holds its runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hiddenstate_server.config import EngineSettings
from hiddenstate_server.inference.onnx_model import OnnxModel
from hiddenstate_server.inference.onnx_runner import OnnxRunner
from hiddenstate_server.inference.tensors import Tensors
from hiddenstate_server.metrics import Metrics

WAIT_S = 20.0


def load(folder: Path, metrics: Metrics | None = None, **settings: Any) -> OnnxModel:
    """Loads the model of a folder as `m`, version 1."""
    loop = asyncio.get_running_loop()
    return OnnxModel.load(folder, "m", "1", EngineSettings(**settings), metrics or Metrics(), loop)


@asynccontextmanager
async def served(folder: Path, metrics: Metrics | None = None, **settings: Any) -> AsyncIterator[OnnxModel]:
    """Loads a model and closes it in the end."""
    model = load(folder, metrics, **settings)
    try:
        yield model
    finally:
        model.close()


class Gate:
    """Holds every run of a graph until it is opened."""

    def __init__(self) -> None:
        self.rows: list[int] = []  # of the first input, run by run
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()

    def pass_through(self, inputs: Tensors) -> None:
        """Runs on the runner thread."""
        self.rows.append(len(next(iter(inputs.values()))))
        self._entered.release()
        assert self._open.wait(WAIT_S)

    async def wait_entered(self) -> None:
        """Returns when another run has begun."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=WAIT_S)

    def open(self) -> None:
        """Lets all runs pass from now on."""
        self._open.set()


@contextmanager
def held() -> Iterator[Gate]:
    """Holds the runs of all models that are loaded already."""
    gate, run = Gate(), OnnxRunner.run

    def gated(runner: OnnxRunner, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        gate.pass_through(inputs)
        return run(runner, inputs, outputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRunner, "run", gated)
        try:
            yield gate
        finally:
            gate.open()
