"""A language model by tensors: texts in, the likeliest next words out; a sequence appends to its context."""

import asyncio
import math
import weakref
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.config import EngineSettings
from hiddenstate_server.context import Context, HeldContext
from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.inference.call_account import CallAccount, served
from hiddenstate_server.inference.columns import COLUMN, read_columns
from hiddenstate_server.inference.sequences import Sequences
from hiddenstate_server.inference.statistics import Statistics
from hiddenstate_server.inference.tensors import SequenceStep, Tensors, TensorSpec
from hiddenstate_server.inference.texts import read_texts
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.messages import DEFAULT_TOP_K
from hiddenstate_server.results import Prediction
from hiddenstate_server.state_token import State

TEXT, TOP_K, PREFIX = "text", "top_k", "prefix"
WORDS, LOG_PROBS, TOKEN_IDS = "words", "log_probs", "token_ids"
NO_TOKEN: Final = -1  # in rows with fewer words than others


class Row(NamedTuple):
    """What is asked of one text."""

    text: str
    top_k: int
    prefix: str


class LanguageModelTensors:
    """Answers for a language model; keeps the states of sequences. Belongs to the event loop."""

    platform = "hiddenstate_language_model"
    stateful = True
    inputs: Sequence[TensorSpec] = (
        TensorSpec(name=TEXT, datatype="BYTES", shape=COLUMN),
        TensorSpec(name=TOP_K, datatype="INT32", shape=COLUMN, optional=True),
        TensorSpec(name=PREFIX, datatype="BYTES", shape=COLUMN, optional=True),
    )
    outputs: Sequence[TensorSpec] = (
        TensorSpec(name=WORDS, datatype="BYTES", shape=(-1, -1)),
        TensorSpec(name=LOG_PROBS, datatype="FP32", shape=(-1, -1)),
        TensorSpec(name=TOKEN_IDS, datatype="INT64", shape=(-1, -1)),
    )

    def __init__(self, model: LanguageModel, settings: EngineSettings) -> None:
        self.name = model.name
        self.version = model.version
        self.provider = model.provider
        self.max_batch_size = settings.max_batch
        self.sequence_idle_s = settings.sequence_idle_s
        self.statistics = Statistics()
        self._model = weakref.ref(model)  # whoever calls has the model, and nobody needs this without it
        self._state_bytes = model.state_bytes
        self.sequences: Sequences[State] = Sequences(
            idle_limit_s=settings.sequence_idle_s, max_bytes=settings.sequence_bytes
        )

    async def infer(
        self,
        inputs: Tensors,
        *,
        outputs: Sequence[str] = (),
        deadline: float = math.inf,
        sequence: SequenceStep | None = None,
        is_bulk: bool = False,
    ) -> Tensors:
        """Answers the next words of each text, likeliest first, [batch, k]; see `TensorModel.infer`.

        Where texts differ in how many words they have, rows are filled up with b"", -inf and -1.
        """
        with CallAccount(self.statistics) as account:
            rows = self._rows(inputs, sequence)
            model = served(self._model)
            if sequence:
                predictions = [await self._step(model, rows[0], sequence, deadline, is_bulk)]
            else:
                predictions = await _predict_all(model, rows, deadline, is_bulk)
            account.answered(len(rows), [prediction.usage for prediction in predictions])
        answer = _tensors(predictions)
        return {name: answer[name] for name in outputs or answer}

    async def drain(self) -> None:
        """Refuses new work and returns when all work is over."""
        await served(self._model).drain()

    def close(self) -> None:
        """Forgets all sequences; the model is closed by its owner."""
        self.sequences.close()

    def _rows(self, inputs: Tensors, sequence: SequenceStep | None) -> list[Row]:
        columns, count = read_columns(inputs, self.inputs, self.max_batch_size)
        if sequence and count > 1:
            raise InvalidRequestError(f"input {TEXT!r}: has {count} rows, a step of a sequence has 1")
        texts = read_texts(columns[TEXT], TEXT)
        top_k = columns[TOP_K].tolist() if TOP_K in columns else [DEFAULT_TOP_K] * count
        prefixes = read_texts(columns[PREFIX], PREFIX) if PREFIX in columns else [""] * count
        return [Row(*row) for row in zip(texts, top_k, prefixes, strict=True)]

    async def _step(
        self, model: LanguageModel, row: Row, step: SequenceStep, deadline: float, is_bulk: bool
    ) -> Prediction:
        async with self.sequences.step(step, self._state_bytes) as turn:
            held = HeldContext(turn.state)
            prediction = await _predict(model, row, deadline, is_bulk, held)
            assert held.state
            turn.keep(held.state, self._state_bytes)
            return prediction


async def _predict_all(model: LanguageModel, rows: Sequence[Row], deadline: float, is_bulk: bool) -> list[Prediction]:
    tasks = [asyncio.create_task(_predict(model, row, deadline, is_bulk)) for row in rows]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # one failed, or the caller left
            task.cancel()


async def _predict(
    model: LanguageModel, row: Row, deadline: float, is_bulk: bool, held: HeldContext | None = None
) -> Prediction:
    return await model.predict(
        Context(text=row.text), top_k=row.top_k, prefix=row.prefix, deadline=deadline, is_bulk=is_bulk, held=held
    )


def _tensors(predictions: Sequence[Prediction]) -> Tensors:
    shape = len(predictions), max(len(prediction.candidates) for prediction in predictions)
    words: NDArray[Any] = np.full(shape, b"", dtype=np.object_)
    log_probs = np.full(shape, -math.inf, dtype=np.float32)
    token_ids = np.full(shape, NO_TOKEN, dtype=np.int64)
    for row, prediction in enumerate(predictions):
        for column, candidate in enumerate(prediction.candidates):
            words[row, column] = candidate.word.encode()
            log_probs[row, column] = candidate.log_prob
            token_ids[row, column] = candidate.token_id
    return {WORDS: words, LOG_PROBS: log_probs, TOKEN_IDS: token_ids}
