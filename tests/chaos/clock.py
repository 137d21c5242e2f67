"""The clock of the wall jumps by hours: what is under way goes on, nothing is late, nothing lives longer.

PYTHONPATH=tests python -m chaos.clock
"""

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import grpc
import numpy as np

from bundles import language_model_bundle
from hiddenstate import Client, DeadlineError, Prediction
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from onnx_files import sum_model
from serve_process import WAIT_S, ServeProcess, serve

_SOURCE = Path(__file__).with_name("clock.c")
_TEXT = ("I", "would", "like", "to", "thank", "you")


class Clock:
    """The clock of the wall as a server sees it."""

    def __init__(self, folder: Path) -> None:
        """Compiles what moves it.

        Raises:
            OSError: there is no C compiler.
        """
        library, self._file = folder / "clock.so", folder / "ahead"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, _SOURCE], check=True)
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(self._file)}

    def set(self, ahead_s: int) -> None:
        """Moves it to so many seconds ahead of what is true."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(ahead_s.to_bytes(8, "little", signed=True))


@contextlib.contextmanager
def prepared() -> Iterator[tuple[Path, Clock]]:
    """Makes models and a clock."""
    with tempfile.TemporaryDirectory() as folder:
        clock, models = Clock(Path(folder)), Path(folder, "models")
        models.mkdir()
        language_model_bundle(models)
        sum_model(models)
        yield models, clock


def add(server: ServeProcess, number: float, *, start: bool = False) -> float:
    """Adds to the sum that a sequence keeps on the server, and returns it."""
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 1])
    request = ModelInferRequest(
        model_name="sum", inputs=[tensor], raw_input_contents=[np.array([number], "<f4").tobytes()]
    )
    request.parameters["sequence_id"].int64_param = 1
    request.parameters["sequence_start"].bool_param = start
    with grpc.insecure_channel(server.address) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=WAIT_S)
    names = [output.name for output in response.outputs]
    return float(np.frombuffer(response.raw_output_contents[names.index("total")], "<f4")[0])


def time_of(line: str) -> str:
    """Returns the hour that a log line begins with."""
    return line[:13]


def jump(models: Path, clock: Clock, hours: int) -> list[str]:
    """Moves the clock in the middle of a stream, a sequence and limits; returns the words that were predicted."""
    clock.set(0)
    limits = ("--caller-calls-per-s", "10000", "--watch-models", "poll", "--poll-interval-s", "1")
    with serve(models, *limits, "--log-calls", "all", **clock.environment) as server, Client(server.address) as client:
        with client.open_stream() as stream, stream.context(model="tiny-lm") as context:
            predictions = [context.predict(word) for word in _TEXT[:3]]
            add(server, 1, start=True)
            before = time_of(server.logged("ModelInfer"))
            clock.set(3600 * hours)
            predictions += [context.predict(word, timeout_s=WAIT_S) for word in _TEXT[3:]]
            assert add(server, 2) == 3  # of a sequence that may be silent for a minute
            assert (time_of(server.logged("ModelInfer")) != before) == bool(hours)  # the server has seen the jump
            assert client.score("I would", model="tiny-lm", timeout_s=WAIT_S).tokens
            assert len(list(client.generate("I", max_tokens=30, model="tiny-lm", timeout_s=WAIT_S))) <= 30
            _is_late_in_time(client)
        version = str(len(list((models / "tiny-lm").iterdir())) + 1)
        language_model_bundle(models, version=version)
        server.logged(f"loaded tiny-lm version {version}")
        assert client.predict("I", model="tiny-lm").candidates
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
    return [_words(prediction) for prediction in predictions]


def _is_late_in_time(client: Client) -> None:
    """Checks that a deadline still is one."""
    try:
        client.score("I " * 10_000, model="tiny-lm", timeout_s=0.001)
    except DeadlineError:
        return
    raise AssertionError("a deadline of a millisecond was none")


def _words(prediction: Prediction) -> str:
    return " ".join(candidate.word for candidate in prediction.candidates)


@click.command()
def main() -> None:
    """Move the clock of a server by hours while it serves."""
    with prepared() as (models, clock):
        wanted = jump(models, clock, 0)
        for hours in (5, -5, 24 * 400):
            words = jump(models, clock, hours)
            click.echo(f"{hours:+6} hours: {'the same words' if words == wanted else 'OTHER WORDS'}, nothing was late")
            if words != wanted:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
