"""Tiny bundles with float16 graphs beside the float32 ones."""

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
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.variant_graphs import VariantGraphs
from hiddenstate_exporter.publishing.parity import FP16_EMBEDDING_TOLERANCE, FP16_TOLERANCE
from hiddenstate_server.bundle import Parity, load_bundle, write_bundle
from hiddenstate_server.tokenizer import word_ranks
from int8_bundles import VOCAB_SIZE, bundle_shape


def fp16_language_model_bundle(folder: Path, **fields: Any) -> Path:
    """Writes a language model to `folder/tiny-lm/1`; see `language_model_bundle`."""
    path = language_model_bundle(folder, **fields)
    shape = bundle_shape(path, bidirectional=False)
    written = write_float16_language_model_graphs(
        path,
        language_model_weights(VOCAB_SIZE, shape, seed=0),
        word_ranks([*SPECIALS, *WORDS], range(len(SPECIALS))),
        beside=load_bundle(path).variants["fp32"].graphs,
        cell=shape.cell,
        connections=shape.connections,
    )
    return _add(path, written, FP16_TOLERANCE)


def fp16_sentence_encoder_bundle(folder: Path, *, pooling: Pooling = "mean", **fields: Any) -> Path:
    """Writes a sentence encoder to `folder/tiny-encoder/1`; see `sentence_encoder_bundle`."""
    path = sentence_encoder_bundle(folder, pooling=pooling, **fields)
    bundle, shape = load_bundle(path), bundle_shape(path, bidirectional=True)
    assert bundle.sentence_encoder is not None
    written = write_float16_sentence_encoder_graphs(
        path,
        sentence_encoder_weights(VOCAB_SIZE, shape, bundle.sentence_encoder.dimension, pooling, seed=0),
        beside=bundle.variants["fp32"].graphs,
        pooling=pooling,
        normalized=bundle.sentence_encoder.normalized,
        cell=shape.cell,
        connections=shape.connections,
    )
    return _add(path, written, FP16_EMBEDDING_TOLERANCE)


def _add(path: Path, written: VariantGraphs, tolerance: float) -> Path:
    bundle = load_bundle(path)
    parity = Parity(tolerance=tolerance, worst=0.0, cases=1, provider="CPUExecutionProvider")
    variant = written.compared(parity)
    write_bundle(msgspec.structs.replace(bundle, variants={**bundle.variants, "fp16": variant}), path)
    return path
