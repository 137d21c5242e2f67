"""Tiny bundles with int8 or float16 graphs beside the float32 ones."""

from pathlib import Path
from typing import Any

import msgspec

from bundles import (
    SPECIALS,
    WORDS,
    language_model_bundle,
    language_model_weights,
    sentence_encoder_bundle,
    sentence_encoder_weights,
)
from hiddenstate_exporter.graphs.float16_graph import (
    write_float16_language_model_graphs,
    write_float16_sentence_encoder_graphs,
)
from hiddenstate_exporter.graphs.int8_embedding import FOLD_LIMIT
from hiddenstate_exporter.graphs.int8_graph import write_int8_language_model_graphs, write_int8_sentence_encoder_graphs
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.variant_graphs import VariantGraphs
from hiddenstate_exporter.publishing.parity import FP16_EMBEDDING_TOLERANCE, FP16_TOLERANCE, INT8_TOLERANCE
from hiddenstate_server.bundle import Parity, VariantName, load_bundle, write_bundle
from hiddenstate_server.tokenizer import word_ranks

VOCAB_SIZE = len(SPECIALS) + len(WORDS)


def int8_language_model_bundle(folder: Path, *, fold_limit: int = FOLD_LIMIT, **fields: Any) -> Path:
    """Writes a language model to `folder/tiny-lm/1`; see `language_model_bundle`."""
    path = language_model_bundle(folder, **fields)
    written = write_int8_language_model_graphs(path, **_language_model(path), fold_limit=fold_limit)
    return _add(path, "int8", written, INT8_TOLERANCE)


def fp16_language_model_bundle(folder: Path, **fields: Any) -> Path:
    """Writes a language model to `folder/tiny-lm/1`; see `language_model_bundle`."""
    path = language_model_bundle(folder, **fields)
    return _add(path, "fp16", write_float16_language_model_graphs(path, **_language_model(path)), FP16_TOLERANCE)


def int8_sentence_encoder_bundle(
    folder: Path, *, pooling: Pooling = "mean", fold_limit: int = FOLD_LIMIT, **fields: Any
) -> Path:
    """Writes a sentence encoder to `folder/tiny-encoder/1`; see `sentence_encoder_bundle`."""
    path = sentence_encoder_bundle(folder, pooling=pooling, **fields)
    written = write_int8_sentence_encoder_graphs(path, **_sentence_encoder(path, pooling), fold_limit=fold_limit)
    return _add(path, "int8", written, INT8_TOLERANCE)  # random weights leave that of embeddings


def fp16_sentence_encoder_bundle(folder: Path, *, pooling: Pooling = "mean", **fields: Any) -> Path:
    """Writes a sentence encoder to `folder/tiny-encoder/1`; see `sentence_encoder_bundle`."""
    path = sentence_encoder_bundle(folder, pooling=pooling, **fields)
    written = write_float16_sentence_encoder_graphs(path, **_sentence_encoder(path, pooling))
    return _add(path, "fp16", written, FP16_EMBEDDING_TOLERANCE)


def _language_model(path: Path) -> dict[str, Any]:
    """Returns what the graphs of a language model's bundle were written with."""
    shape = _shape(path)
    return {
        "weights": language_model_weights(VOCAB_SIZE, shape, seed=0),
        "token_ranks": word_ranks([*SPECIALS, *WORDS], range(len(SPECIALS))),
        "beside": load_bundle(path).variants["fp32"].graphs,
        "cell": shape.cell,
        "connections": shape.connections,
    }


def _sentence_encoder(path: Path, pooling: Pooling) -> dict[str, Any]:
    """Returns what the graph of a sentence encoder's bundle was written with."""
    bundle, shape = load_bundle(path), _shape(path)
    assert bundle.sentence_encoder is not None
    return {
        "weights": sentence_encoder_weights(VOCAB_SIZE, shape, bundle.sentence_encoder.dimension, pooling, seed=0),
        "beside": bundle.variants["fp32"].graphs,
        "pooling": pooling,
        "normalized": bundle.sentence_encoder.normalized,
        "cell": shape.cell,
        "connections": shape.connections,
    }


def _shape(path: Path) -> StackShape:
    architecture = load_bundle(path).architecture
    assert architecture.cell != "transformer"
    return StackShape(
        cell=architecture.cell,
        connections=architecture.connections,
        input_size=architecture.embedding_size,
        hidden_size=architecture.hidden_size,
        num_layers=architecture.num_layers,
        bidirectional=architecture.bidirectional,
    )


def _add(path: Path, name: VariantName, written: VariantGraphs, tolerance: float) -> Path:
    bundle = load_bundle(path)
    variant = written.compared(Parity(tolerance=tolerance, worst=0.0, cases=1, provider="CPUExecutionProvider"))
    write_bundle(msgspec.structs.replace(bundle, variants={**bundle.variants, name: variant}), path)
    return path
