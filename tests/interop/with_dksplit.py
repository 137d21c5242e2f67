"""dksplit: an int8 graph that rounds by the largest value of a batch. Rows would change each other's answers, so the
server has to find out that calls go by themselves.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from packages import module, package
from remote_model import Arrays, RemoteModel, models_of, side_by_side
from running import check, main

TEXTS: Final = 300
TEXT: Final = "chat gpt login open source machine learning the quick brown fox new york times bank of ireland"


class RemoteSession:
    """Stands where dksplit has its onnxruntime session."""

    def __init__(self, model: RemoteModel) -> None:
        self._model = model
        self.answers: list[tuple[Arrays, NDArray[Any]]] = []

    def run(self, outputs: None, inputs: Arrays) -> list[NDArray[Any]]:
        """Answers as a session does."""
        answer = self._model(inputs)["emissions"]
        self.answers.append((inputs, answer))
        return [answer]


def script() -> None:
    """Splits the same texts with dksplit, and with dksplit on the server's model."""
    graph = package("dksplit==1.0.2") / "dksplit" / "models" / "dksplit-int8.onnx"
    split = module("dksplit.split")
    choose = np.random.default_rng(0)
    texts = ["".join(choose.choice(TEXT.split(), size=choose.integers(1, 6))) for _ in range(TEXTS)]
    own, remote = split.Splitter(num_threads=1), split.Splitter(num_threads=1)
    with tempfile.TemporaryDirectory() as name:
        (folder := Path(name) / "dksplit").mkdir()
        shutil.copy(graph, folder / "model.onnx")
        with models_of(Path(name)) as models:
            remote.session = session = RemoteSession(models("dksplit"))
            one_by_one = side_by_side(remote.split, texts)
            in_batches = remote.split_batch(texts)
    same = [one == own.split(text) for text, one in zip(texts, one_by_one, strict=True)]
    check("texts that are split as by dksplit, called side by side", sum(same), TEXTS)
    check("the same in batches", in_batches == own.split_batch(texts), True)
    equal = [np.array_equal(answer, own.session.run(None, inputs)[0]) for inputs, answer in session.answers]
    check(f"emissions equal to the bit, in {len(equal)} calls", all(equal), True)
    print(f"  for example {texts[0]}: {one_by_one[0]}")


if __name__ == "__main__":
    main(script)
