"""A sentence encoder by tensors: texts in, one vector for each out."""

import math
import weakref
from collections.abc import Sequence

from hiddenstate_server.config import EngineSettings
from hiddenstate_server.inference.call_account import CallAccount, served
from hiddenstate_server.inference.columns import COLUMN, read_columns
from hiddenstate_server.inference.statistics import Statistics
from hiddenstate_server.inference.tensors import SequenceStep, Tensors, TensorSpec
from hiddenstate_server.inference.texts import read_texts
from hiddenstate_server.sentence_encoder import SentenceEncoder

SENTENCES, EMBEDDINGS = "sentences", "embeddings"


class SentenceEncoderTensors:
    """Answers for a sentence encoder. Belongs to the event loop."""

    platform = "hiddenstate_sentence_encoder"
    stateful = False
    sequence_idle_s = 0.0
    inputs: Sequence[TensorSpec] = (TensorSpec(name=SENTENCES, datatype="BYTES", shape=COLUMN),)

    def __init__(self, model: SentenceEncoder, settings: EngineSettings) -> None:
        self.name = model.name
        self.version = model.version
        self.provider = model.provider
        self.outputs: Sequence[TensorSpec] = (
            TensorSpec(name=EMBEDDINGS, datatype="FP32", shape=(-1, model.dimension)),
        )
        self.max_batch_size = settings.max_sentences
        self.statistics = Statistics()
        self._model = weakref.ref(model)  # whoever calls has the model, and nobody needs this without it

    async def infer(
        self,
        inputs: Tensors,
        *,
        outputs: Sequence[str] = (),
        deadline: float = math.inf,
        sequence: SequenceStep | None = None,
        is_bulk: bool = False,
    ) -> Tensors:
        """Answers a vector for each sentence, [batch, dimension]; see `TensorModel.infer`."""
        with CallAccount(self.statistics) as account:
            columns, rows = read_columns(inputs, self.inputs, self.max_batch_size)
            sentences = read_texts(columns[SENTENCES], SENTENCES)
            encoding = await served(self._model).encode(sentences, deadline=deadline, is_bulk=is_bulk)
            account.answered(rows, [encoding.usage])
        return {EMBEDDINGS: encoding.embeddings}

    async def drain(self) -> None:
        """Refuses new work and returns when all work is over."""
        await served(self._model).drain()

    def close(self) -> None:
        """Has nothing of its own; the model is closed by its owner."""
