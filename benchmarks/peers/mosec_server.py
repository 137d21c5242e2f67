"""A peer: mosec, whose Rust front batches for Python workers, with the same tokenizer and the same graph.

    HIDDENSTATE_BUNDLE=FOLDER python mosec_server.py --port PORT

POST /inference takes a sentence as text and answers its vector as bytes.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime
from mosec import Server, Worker
from tokenizers import Tokenizer

FOLDER = Path(os.environ["HIDDENSTATE_BUNDLE"])
WORKERS = 2
MAX_BATCH = 32


class Encoder(Worker):  # type: ignore[misc]  # mosec lives in another environment
    """Encodes a batch of sentences."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(FOLDER / "encoder.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))

    def deserialize(self, data: bytes) -> str:
        return data.decode()

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[str]) -> list[bytes]:
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(data)]
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        tokens = np.zeros((len(rows), lengths.max()), dtype=np.int64)
        for line, row in zip(tokens, rows, strict=True):
            line[: len(row)] = row
        vectors = self._session.run(["embeddings"], {"tokens": tokens, "lengths": lengths})[0]
        return [vector.tobytes() for vector in vectors]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Encoder, num=WORKERS, max_batch_size=MAX_BATCH, max_wait_time=1)
    server.run()
