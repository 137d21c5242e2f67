"""A peer: a model of one's own in MLServer, with its adaptive batching, the same tokenizer and the same graph.

`mlserver start FOLDER`, where FOLDER has the settings that `peers.mlserver` writes. ModelInfer takes a sentence as
BYTES [1] and answers its vector.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from tokenizers import Tokenizer


class Encoder(MLModel):  # type: ignore[misc]  # MLServer lives in another environment
    """Encodes what MLServer joins to one request."""

    async def load(self) -> bool:
        folder = Path(self.settings.parameters.uri)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "encoder.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        tokens = np.zeros((len(rows), lengths.max()), dtype=np.int64)
        for line, row in zip(tokens, rows, strict=True):
            line[: len(row)] = row
        vectors = self._session.run(["embeddings"], {"tokens": tokens, "lengths": lengths})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("embeddings", vectors)])
