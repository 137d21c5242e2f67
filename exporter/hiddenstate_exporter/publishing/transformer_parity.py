"""Compares the graph of a transformer with sentence-transformers, on tokens and on text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer

from hiddenstate_exporter.foreign.transformer_folder import TransformerFolder
from hiddenstate_exporter.graphs.weights import StoredDtype
from hiddenstate_exporter.publishing.evaluation import encode_sentences
from hiddenstate_exporter.publishing.onnx_model import PROVIDER, FloatArray, IdArray, LengthArray, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.parity import (
    TOLERANCE,
    Case,
    Differences,
    ParityError,
    draw_tokens,
    grid,
    naming_case,
)
from hiddenstate_exporter.training.teacher import load_sentence_transformer
from hiddenstate_server.bundle import Parity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# What tokenizers and their settings treat differently: case, accents, scripts, signs, marks in a text, long texts.
SENTENCES = (
    "A man is playing a guitar.",
    "NA\u00cfVE Caf\u00e9s serve D\u00e9j\u00e0-vu \u2014 don't they?",
    "\u4f60\u597d\uff0c\u4e16\u754c \u041c\u0438\u0440 \u0645\u0631\u062d\u0628\u0627",
    "E = mc\u00b2 \u2248 9\u00d710\u00b9\u2076 J/kg \U0001f600\u200d\n\tat  3.5%",
    "[SEP] ends a sentence, and [MASK] or <mask> hides a word.",
)
LONG_SENTENCE = "The quick brown fox jumps over 13 lazy dogs, and then some. "  # repeated until it must be cut


def check_transformer(
    onnx_model: OnnxSentenceEncoder, source: TransformerFolder, dtype: StoredDtype, tolerance: float = TOLERANCE
) -> Parity:
    """Compares the graph with sentence-transformers, whose weights are rounded to `dtype` as well.

    Tokens go through both over the whole grid and at the greatest length; sentences go through the bundle's tokenizer
    and the folder's own, so that a setting of the folder that would be read otherwise here is found out.

    Raises:
        ParityError: a vector is off by more than `tolerance`, or ONNX Runtime cannot run a case.
        TeacherError: sentence-transformers cannot load the folder.
    """
    model = load_rounded(source, dtype)
    differences = Differences(tolerance)
    cases = _cases(source.max_seq_length)
    rng = np.random.default_rng(0)
    for case in cases:
        tokens, lengths = draw_tokens(case, source.vocab_size, rng)
        with naming_case(case):
            embeddings = onnx_model.embed(tokens, lengths)
        differences.add("embeddings", case, embeddings, _reference_embeddings(model, tokens, lengths))
    sentences = [*SENTENCES, LONG_SENTENCE * source.max_seq_length]
    _check_sentences(onnx_model, source, model, sentences, differences)
    return Parity(tolerance=tolerance, worst=differences.worst, cases=len(cases) + len(sentences), provider=PROVIDER)


def load_rounded(source: TransformerFolder, dtype: StoredDtype) -> "SentenceTransformer":
    """Loads the model with sentence-transformers, its weights as they come back after being stored in `dtype`."""
    model = load_sentence_transformer(source.folder, "float32")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)))
    return model


def encode_texts(model: "SentenceTransformer", texts: Sequence[str]) -> FloatArray:
    """Returns the vectors [sentences, dimension] that sentence-transformers gives."""
    return np.asarray(model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True), np.float32)


def _cases(max_seq_length: int) -> list[Case]:
    cases = [case for case in grid(random_states=False) if case.seq_len <= max_seq_length]
    return [*cases, Case(batch_size=2, seq_len=max_seq_length, ragged=True)]


def _check_sentences(
    onnx_model: OnnxSentenceEncoder,
    source: TransformerFolder,
    model: "SentenceTransformer",
    sentences: Sequence[str],
    differences: Differences,
) -> None:
    tokenizer = Tokenizer.from_str(source.tokenizer)
    actual = encode_sentences(onnx_model, tokenizer, sentences, max_seq_length=source.max_seq_length)
    expected = encode_texts(model, sentences)
    for sentence, row, reference in zip(sentences, actual, expected, strict=True):
        try:
            differences.add("embeddings", f"sentence {sentence[:60]!r}", row, reference)
        except ParityError as error:
            raise ParityError(
                f"{error}; the same tokens gave the same vectors, so a setting of the folder makes sentence-"
                "transformers cut sentences into other tokens than its tokenizer.json does"
            ) from None


def _reference_embeddings(model: "SentenceTransformer", tokens: IdArray, lengths: LengthArray) -> FloatArray:
    rows = []
    with torch.inference_mode():
        for row, length in zip(tokens, lengths, strict=True):
            ids = torch.from_numpy(row[None, :length])
            rows.append(model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"])
    embeddings: FloatArray = torch.cat(rows).numpy()
    return embeddings
