"""A peer: what one writes in an afternoon. grpc.aio, uvloop, and a queue that is emptied whenever the model is free.

    python grpc_server.py BUNDLE_FOLDER SESSIONS

speaks the contract's Encode, with the same tokenizer and the same graph as hiddenstate.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import uvloop
from tokenizers import Tokenizer

from hiddenstate.v1.sentence_encoder_pb2 import EncodeRequest, EncodeResponse
from hiddenstate.v1.sentence_encoder_pb2_grpc import (
    SentenceEncoderServiceServicer,
    add_SentenceEncoderServiceServicer_to_server,
)

MAX_BATCH = 64
Waiting = asyncio.Queue[tuple[list[int], "asyncio.Future[np.ndarray]"]]


class Encoder(SentenceEncoderServiceServicer):
    """Puts each sentence into the queue and waits for its vector."""

    def __init__(self, tokenizer: Tokenizer, waiting: Waiting) -> None:
        self._tokenizer = tokenizer
        self._waiting = waiting

    async def Encode(self, request: EncodeRequest, context: object) -> EncodeResponse:  # noqa: N802
        futures = []
        for encoding in self._tokenizer.encode_batch_fast(list(request.sentences)):
            futures.append(asyncio.get_running_loop().create_future())
            self._waiting.put_nowait((encoding.ids, futures[-1]))
        vectors = np.stack([await future for future in futures])
        return EncodeResponse(embeddings=vectors.tobytes(), count=len(vectors), dimension=vectors.shape[1])


async def work(session: onnxruntime.InferenceSession, waiting: Waiting, pool: ThreadPoolExecutor) -> None:
    """Runs batches of whatever waits."""
    while True:
        batch = [await waiting.get()]
        while len(batch) < MAX_BATCH and not waiting.empty():
            batch.append(waiting.get_nowait())
        vectors = await asyncio.get_running_loop().run_in_executor(pool, encode, session, [ids for ids, _ in batch])
        for (_, future), vector in zip(batch, vectors, strict=True):
            if not future.done():
                future.set_result(vector)


def encode(session: onnxruntime.InferenceSession, rows: list[list[int]]) -> np.ndarray:
    """Returns the vectors of a batch."""
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    tokens = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    for line, row in zip(tokens, rows, strict=True):
        line[: len(row)] = row
    embeddings: np.ndarray = session.run(["embeddings"], {"tokens": tokens, "lengths": lengths})[0]
    return embeddings


async def serve(folder: Path, sessions: int) -> None:
    """Serves until it is ended."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    waiting: Waiting = asyncio.Queue()
    pool = ThreadPoolExecutor(sessions)
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"), options, providers=["CPUExecutionProvider"])
    workers = [asyncio.create_task(work(session, waiting, pool)) for _ in range(sessions)]
    server = grpc.aio.server()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoder = Encoder(tokenizer, waiting)  # type: ignore[abstract]  # no EncodeStream
    add_SentenceEncoderServiceServicer_to_server(encoder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"plain grpc.aio on 127.0.0.1:{port}", flush=True)
    await asyncio.gather(*workers)


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
