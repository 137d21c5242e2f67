"""Adds the variant `int8` to a bundle, if it is as good as the float32 one.

It is refused unless every row gives the same bits alone and in any batch, no activation leaves its bound, and the
numbers on held-out data are those of the float32 graphs within a stated margin.
"""

from pathlib import Path

from hiddenstate_exporter.graphs.int8_embedding import FOLD_LIMIT
from hiddenstate_exporter.graphs.int8_graph import write_int8_language_model_graphs, write_int8_sentence_encoder_graphs
from hiddenstate_exporter.publishing.activation_bounds import check_activation_bounds
from hiddenstate_exporter.publishing.evaluation import Track
from hiddenstate_exporter.publishing.invariance import (
    check_language_model_invariance,
    check_sentence_encoder_invariance,
)
from hiddenstate_exporter.publishing.measurement import Data
from hiddenstate_exporter.publishing.onnx_model import OnnxLanguageModel, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.parity import INT8_EMBEDDING_TOLERANCE, INT8_TOLERANCE
from hiddenstate_exporter.publishing.reference import LanguageModelReference, SentenceEncoderReference
from hiddenstate_exporter.publishing.source import Model
from hiddenstate_exporter.publishing.variant import VariantError, add_variant
from hiddenstate_exporter.training.checkpoint import Checkpoint
from hiddenstate_server.bundle import Bundle, Variant


def add_int8(
    folder: Path, bundle: Bundle, checkpoint: Model, data: Data, *, fold_limit: int, track: Track = iter
) -> Bundle:
    """Writes the int8 graphs of a bundle into its folder, checks and measures them, and returns the larger bundle.

    Args:
        folder: The folder of a bundle with float32 graphs.
        bundle: That bundle, whose metrics are those on `data`.
        checkpoint: What it was made of.
        data: What to measure on.
        fold_limit: Bytes of memory that a folded embedding may take.
        track: Goes through long measurements.

    Raises:
        VariantError: the model is of a kind that has no int8 graphs, or there is nothing to measure on.
        MeasurementError: the numbers on the data are not those of the float32 graphs.
        ParityError, InvarianceError, BoundError: see `build_int8`.
    """
    _check_architecture(bundle)

    def build() -> Variant:
        return build_int8(folder, bundle, checkpoint, fold_limit=fold_limit)

    return add_variant(folder, bundle, "int8", build, data, track=track)


def build_int8(folder: Path, bundle: Bundle, checkpoint: Model, *, fold_limit: int = FOLD_LIMIT) -> Variant:
    """Writes the int8 graphs of a bundle into its folder and checks them, without measuring what they lose.

    Raises:
        VariantError: the model is of a kind that has no int8 graphs.
        ParityError: an output is far from PyTorch's.
        InvarianceError: a row's answer depends on its batch.
        BoundError: an activation left its bound.
    """
    _check_architecture(bundle)
    assert isinstance(checkpoint, Checkpoint)  # a recurrent model's
    build = _language_model if bundle.kind == "language_model" else _sentence_encoder
    variant = build(folder, bundle, checkpoint, fold_limit)
    check_activation_bounds(folder, bundle, variant)
    return variant


def _check_architecture(bundle: Bundle) -> None:
    if bundle.architecture.cell == "transformer":
        raise VariantError("a transformer's activations have no proven bounds: only recurrent models have int8 graphs")


def _language_model(folder: Path, bundle: Bundle, checkpoint: Checkpoint, fold_limit: int) -> Variant:
    reference = LanguageModelReference(folder, bundle, checkpoint)
    written = reference.write(write_int8_language_model_graphs, dtype=bundle.dtype, fold_limit=fold_limit)
    onnx_model = OnnxLanguageModel(folder, written.graphs)
    check_language_model_invariance(onnx_model, bundle.vocab_size)
    return written.compared(reference.compare(onnx_model, INT8_TOLERANCE))


def _sentence_encoder(folder: Path, bundle: Bundle, checkpoint: Checkpoint, fold_limit: int) -> Variant:
    reference = SentenceEncoderReference(folder, bundle, checkpoint)
    written = reference.write(write_int8_sentence_encoder_graphs, dtype=bundle.dtype, fold_limit=fold_limit)
    onnx_model = OnnxSentenceEncoder(folder, written.graphs)
    check_sentence_encoder_invariance(onnx_model, bundle.vocab_size)
    return written.compared(reference.compare(onnx_model, INT8_EMBEDDING_TOLERANCE))
