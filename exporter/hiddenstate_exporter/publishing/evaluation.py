"""Measures a bundle's graphs on data: perplexity and accuracy of language models, rank correlation of encoders.

What is measured, and how a text is read, is the same as in training (`language_model_task.score`, `sts.spearman`), so
that the numbers of the graphs and of the checkpoint they came from can be set side by side.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from hiddenstate_exporter.publishing.onnx_model import FloatArray, IdArray, OnnxLanguageModel, OnnxSentenceEncoder
from hiddenstate_exporter.training.language_model_task import MAX_SCORE_ROWS, MIN_SCORE_TOKENS, NO_TOKEN, Scores
from hiddenstate_server.batch import pad
from hiddenstate_server.bundle import LanguageModelSpec
from hiddenstate_server.tokenizer import Tokenizer as ServedTokenizer

WINDOW = 16  # tokens of each row in one run; the head makes [rows * WINDOW, vocab_size] log probabilities at a time
SENTENCES = 64  # in one run
TOP = 3

Track = Callable[[Sequence[Any]], Iterable[Any]]  # goes through a sequence, and may show how far it is


def score_language_model(
    onnx_model: OnnxLanguageModel, spec: LanguageModelSpec, stream: IdArray, *, track: Track = iter
) -> Scores:
    """Measures a language model on a token stream, int64 [tokens]; see `language_model_task.score`.

    Raises:
        ValueError: the stream has no token to predict.
    """
    rows = max(1, min(MAX_SCORE_ROWS, len(stream) // MIN_SCORE_TOKENS))
    if len(stream) <= rows:
        raise ValueError("nothing to measure on: the text has no token")
    length = (len(stream) - 1) // rows
    inputs, targets = (stream[i : i + rows * length].reshape(rows, length) for i in (0, 1))
    state = np.zeros((rows, onnx_model.state_size), np.float32)
    not_words = sorted({*spec.special_token_ids} - {spec.unk_token_id})
    predicted = targets != mark_id(spec)  # [rows, length]
    log_prob, hits, words = 0.0, np.zeros(TOP), 0
    for start in track(range(0, length, WINDOW)):
        tokens = inputs[:, start : start + WINDOW]  # [rows, window]
        wanted = targets[:, start : start + WINDOW].reshape(-1)  # [rows * window]
        outputs, state = onnx_model.advance(tokens, np.full(rows, tokens.shape[1], np.int32), state)
        hidden = outputs.reshape(len(wanted), -1)  # [rows * window, output_size]
        top = onnx_model.top(hidden, TOP, targets=wanted, ranks=(0, np.iinfo(np.int64).max))
        log_prob += float(top.target_log_probs[predicted[:, start : start + WINDOW].reshape(-1)].sum(dtype=np.float64))
        is_word = ~np.isin(wanted, not_words)
        hits += (top.ids == wanted[:, None])[is_word].sum(axis=0).cumsum()
        words += int(is_word.sum())
    total = max(int(predicted.sum()), 1)
    return Scores(
        perplexity=math.exp(min(-log_prob / total, 700.0)),
        top1_accuracy=float(hits[0]) / max(words, 1),
        top3_accuracy=float(hits[TOP - 1]) / max(words, 1),
        unk_rate=float((targets == spec.unk_token_id).sum()) / total,
    )


def mark_id(spec: LanguageModelSpec) -> int:
    """Returns the id of the mark before a text, which need not be predicted; NO_TOKEN where eos does its work."""
    return spec.bos_token_id if spec.bos_token_id != spec.eos_token_id else NO_TOKEN


def encode_sentences(
    onnx_model: OnnxSentenceEncoder,
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    *,
    max_seq_length: int,
    track: Track = iter,
) -> FloatArray:
    """Returns the vectors [sentences, dimension] of an encoder, in the order of the sentences."""
    tokens = _tokenize(tokenizer, sentences, max_seq_length)
    order = np.argsort([len(ids) for ids in tokens], kind="stable")  # like lengths share a run
    chunks = [order[start : start + SENTENCES] for start in range(0, len(order), SENTENCES)]
    vectors = np.concatenate([onnx_model.embed(*pad([tokens[row] for row in chunk])) for chunk in track(chunks)])
    restored = np.empty_like(vectors)
    restored[order] = vectors
    return restored


def _tokenize(tokenizer: Tokenizer, sentences: Sequence[str], max_seq_length: int) -> list[list[int]]:
    """Returns the tokens of sentences as a server feeds them; one without a token gets id 0, to have a length."""
    served = ServedTokenizer(tokenizer)
    return [served.cut(ids, max_seq_length) or [0] for ids in served.encode_batch(sentences)]
