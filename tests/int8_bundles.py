"""Tiny bundles with int8 graphs beside the float32 ones."""

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
from hiddenstate_exporter.graphs.int8_embedding import FOLD_LIMIT
from hiddenstate_exporter.graphs.int8_graph import (
    write_int8_language_model_graphs,
    write_int8_sentence_encoder_graphs,
)
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.graphs.variant_graphs import VariantGraphs
from hiddenstate_server.bundle import Parity, load_bundle, write_bundle
from hiddenstate_server.tokenizer import word_ranks

VOCAB_SIZE = len(SPECIALS) + len(WORDS)
TOLERANCE = 1.0


def int8_language_model_bundle(folder: Path, *, fold_limit: int = FOLD_LIMIT, **fields: Any) -> Path:
    """Writes a language model to `folder/tiny-lm/1`; see `language_model_bundle`."""
    path = language_model_bundle(folder, **fields)
    shape = bundle_shape(path, bidirectional=False)
    weights = language_model_weights(VOCAB_SIZE, shape, seed=0)
    ranks = word_ranks([*SPECIALS, *WORDS], range(len(SPECIALS)))
    graphs = load_bundle(path).variants["fp32"].graphs
    written = write_int8_language_model_graphs(
        path,
        weights,
        ranks,
        beside=graphs,
        cell=shape.cell,
        connections=shape.connections,
        fold_limit=fold_limit,
    )
    return _add(path, written)


def int8_sentence_encoder_bundle(
    folder: Path, *, pooling: Pooling = "mean", fold_limit: int = FOLD_LIMIT, **fields: Any
) -> Path:
    """Writes a sentence encoder to `folder/tiny-encoder/1`; see `sentence_encoder_bundle`."""
    path = sentence_encoder_bundle(folder, pooling=pooling, **fields)
    bundle, shape = load_bundle(path), bundle_shape(path, bidirectional=True)
    assert bundle.sentence_encoder is not None
    weights = sentence_encoder_weights(VOCAB_SIZE, shape, bundle.sentence_encoder.dimension, pooling, seed=0)
    written = write_int8_sentence_encoder_graphs(
        path,
        weights,
        beside=bundle.variants["fp32"].graphs,
        pooling=pooling,
        normalized=bundle.sentence_encoder.normalized,
        cell=shape.cell,
        connections=shape.connections,
        fold_limit=fold_limit,
    )
    return _add(path, written)


def bundle_shape(path: Path, *, bidirectional: bool) -> StackShape:
    """Returns the sizes of the recurrent layers of a bundle."""
    architecture = load_bundle(path).architecture
    assert architecture.cell != "transformer"
    return StackShape(
        cell=architecture.cell,
        connections=architecture.connections,
        input_size=architecture.embedding_size,
        hidden_size=architecture.hidden_size,
        num_layers=architecture.num_layers,
        bidirectional=bidirectional,
    )


def _add(path: Path, written: VariantGraphs) -> Path:
    bundle = load_bundle(path)
    parity = Parity(tolerance=TOLERANCE, worst=0.0, cases=1, provider="CPUExecutionProvider")
    variant = written.compared(parity)
    write_bundle(msgspec.structs.replace(bundle, variants={**bundle.variants, "int8": variant}), path)
    return path
