"""Checks that a row's answer is the same to the bit alone and in any batch."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from hiddenstate_exporter.publishing.onnx_model import (
    FloatArray,
    IdArray,
    LengthArray,
    OnnxLanguageModel,
    OnnxSentenceEncoder,
)

BATCH_SIZES: Final = (2, 3, 5, 16, 33, 64, 128)
SEQ_LEN: Final = 12
TOP_K: Final = 20

Rows = Sequence[FloatArray]  # what a graph gives, each [batch, ...]


class InvarianceError(ValueError):
    """A row's answer depends on the batch that it is in; the message names the output, the row and the batch."""


def check_language_model_invariance(onnx_model: OnnxLanguageModel, vocab_size: int) -> None:
    """Runs contexts of all lengths up to 12 alone and in batches of up to 128, through both graphs.

    Raises:
        InvarianceError: some row's output or state differs.
    """
    rng = np.random.default_rng(0)
    tokens, lengths = _draw_tokens(vocab_size, rng)
    state = _draw_state(onnx_model.state_size, rng)
    last: list[FloatArray] = []  # the hidden rows that the head is then asked about

    def advance(rows: slice, seq_len: int) -> Rows:
        outputs, next_state = onnx_model.advance(tokens[rows, :seq_len], lengths[rows], state[rows])
        valid = np.arange(seq_len) < lengths[rows, None]
        padded = np.zeros((len(outputs), SEQ_LEN, outputs.shape[2]), np.float32)
        padded[:, :seq_len] = np.where(valid[:, :, None], outputs, 0)
        last[:] = [outputs[np.arange(len(outputs)), lengths[rows] - 1]]
        return padded, next_state

    _check(("outputs", "next_state"), lengths, advance)
    hidden = last[0]  # [128, output_size], of the largest batch
    targets = rng.integers(vocab_size, size=len(hidden))
    for ranks in (None, (0, vocab_size // 2)):

        def top(rows: slice, seq_len: int, ranks: tuple[int, int] | None = ranks) -> Rows:
            k = min(TOP_K, vocab_size)
            answer = onnx_model.top(hidden[rows], k, targets=targets[rows], ranks=ranks)
            return answer.log_probs, answer.ids.astype(np.float32), answer.target_log_probs

        _check(("top_log_probs", "top_ids", "target_log_probs"), lengths, top)


def check_sentence_encoder_invariance(onnx_model: OnnxSentenceEncoder, vocab_size: int) -> None:
    """Encodes sentences of all lengths up to 12 alone and in batches of up to 128.

    Raises:
        InvarianceError: some sentence's embedding differs.
    """
    tokens, lengths = _draw_tokens(vocab_size, np.random.default_rng(0))

    def embed(rows: slice, seq_len: int) -> Rows:
        return (onnx_model.embed(tokens[rows, :seq_len], lengths[rows]),)

    _check(("embeddings",), lengths, embed)


def _check(outputs: Sequence[str], lengths: LengthArray, run: Callable[[slice, int], Rows]) -> None:
    """Compares rows alone, cut to their length, with the same rows at the beginning of each batch."""
    alone = [run(slice(row, row + 1), int(length)) for row, length in enumerate(lengths)]
    for batch_size in BATCH_SIZES:
        together = run(slice(0, batch_size), int(lengths[:batch_size].max()))
        for number, output in enumerate(outputs):
            expected = np.concatenate([rows[number] for rows in alone[:batch_size]])
            differing = np.flatnonzero((together[number] != expected).reshape(batch_size, -1).any(axis=1))
            if len(differing):
                raise InvarianceError(
                    f"{output}: row {differing[0]} alone differs from the same row in a batch of {batch_size}"
                )


def _draw_tokens(vocab_size: int, rng: np.random.Generator) -> tuple[IdArray, LengthArray]:
    rows = max(BATCH_SIZES)
    lengths = rng.integers(1, SEQ_LEN, size=rows, endpoint=True).astype(np.int32)
    lengths[0] = 1  # and the longest are elsewhere: the first row is in every batch
    return rng.integers(vocab_size, size=(rows, SEQ_LEN)), lengths


def _draw_state(state_size: int, rng: np.random.Generator) -> FloatArray:
    return rng.uniform(-1, 1, size=(max(BATCH_SIZES), state_size)).astype(np.float32)
