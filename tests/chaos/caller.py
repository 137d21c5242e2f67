"""A caller in a process of its own, to be stopped in the middle: `python -m chaos.caller ADDRESS WAY`."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hiddenstate import Client
from hiddenstate.v1.language_model_pb2 import PredictRequest, PredictStreamRequest, StreamedPredictRequest

CONTEXTS = 5


@contextmanager
def calling(address: str, way: str) -> "Iterator[subprocess.Popen[str]]":
    """Starts a caller, and returns once it has contexts on a stream. `way` is "hold", "load" or "generate"."""
    command = (sys.executable, "-m", "chaos.caller", address, way)
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "calls\n"
            yield process
        finally:
            process.kill()


class Deaf:
    """Messages for a stream, as many as are taken, whose replies nobody reads."""

    def __init__(self) -> None:
        self.sent = 0
        self._ends = threading.Event()

    def messages(self) -> Iterator[PredictStreamRequest]:
        """Yields messages of 16 requests until the end."""
        for first in itertools.count(1, 16):
            if self._ends.is_set():
                return
            self.sent += 16
            predict = PredictRequest(model="tiny-lm", text="I", top_k=40, return_state=True)
            items = [StreamedPredictRequest(request_id=first + each, predict=predict) for each in range(16)]
            yield PredictStreamRequest(requests=items)

    def end(self) -> None:
        """Yields no more."""
        self._ends.set()


def _main(address: str, way: str) -> None:
    with Client(address, timeout_s=None) as client, client.open_stream() as stream:
        contexts = [stream.context(model="tiny-lm") for _ in range(CONTEXTS)]
        for context in contexts:
            context.predict("I")
        print("calls", flush=True)
        while way == "load":
            for context in contexts:
                context.predict("I", top_k=40, return_state=True)
        while way == "generate":
            client.generate("I", max_tokens=1000, model="tiny-lm").text()
        threading.Event().wait()


if __name__ == "__main__":
    _main(*sys.argv[1:])
