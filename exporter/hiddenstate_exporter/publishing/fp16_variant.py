"""Adds the variant `fp16`, for GPUs, to a bundle, if it is as good as the float32 one.

Its graphs are run on the CPU provider of ONNX Runtime, which widens what float16 operators read and rounds what they
give. That holds the graphs, and the rounding of weights and of some values, against PyTorch; how a GPU computes in
float16 is seen by the server that tries the graphs there.
"""

from pathlib import Path

from hiddenstate_exporter.graphs.float16_graph import (
    write_float16_language_model_graphs,
    write_float16_sentence_encoder_graphs,
)
from hiddenstate_exporter.publishing.activation_bounds import check_float16_values
from hiddenstate_exporter.publishing.evaluation import Track
from hiddenstate_exporter.publishing.measurement import Data
from hiddenstate_exporter.publishing.onnx_model import OnnxLanguageModel, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.parity import FP16_EMBEDDING_TOLERANCE, FP16_TOLERANCE
from hiddenstate_exporter.publishing.reference import LanguageModelReference, SentenceEncoderReference
from hiddenstate_exporter.publishing.source import Model
from hiddenstate_exporter.publishing.variant import VariantError, add_variant
from hiddenstate_exporter.training.checkpoint import Checkpoint
from hiddenstate_server.bundle import Bundle, Variant


def add_fp16(folder: Path, bundle: Bundle, checkpoint: Model, data: Data, *, track: Track = iter) -> Bundle:
    """Writes the float16 graphs of a bundle into its folder, checks and measures them, and returns the larger bundle.

    Raises:
        VariantError: the model is of a kind that has no float16 graphs, or there is nothing to measure on.
        MeasurementError: the numbers on the data are not those of the float32 graphs.
        WeightsError, BoundError, ParityError: see `build_fp16`.
    """
    _check_architecture(bundle)
    return add_variant(folder, bundle, "fp16", lambda: build_fp16(folder, bundle, checkpoint), data, track=track)


def build_fp16(folder: Path, bundle: Bundle, checkpoint: Model) -> Variant:
    """Writes the float16 graphs of a bundle into its folder and checks them, without measuring what they lose.

    Raises:
        VariantError: the model is of a kind that has no float16 graphs.
        WeightsError: float16 cannot hold a weight, or what a layer makes of its input.
        BoundError: a value left what float16 can hold.
        ParityError: an output is far from PyTorch's.
    """
    _check_architecture(bundle)
    assert isinstance(checkpoint, Checkpoint)  # a recurrent model's
    build = _language_model if bundle.kind == "language_model" else _sentence_encoder
    return build(folder, bundle, checkpoint)


def _check_architecture(bundle: Bundle) -> None:
    if bundle.architecture.cell == "transformer":
        raise VariantError("only recurrent models have float16 graphs, and this is a transformer")


def _language_model(folder: Path, bundle: Bundle, checkpoint: Checkpoint) -> Variant:
    reference = LanguageModelReference(folder, bundle, checkpoint)
    written = reference.write(write_float16_language_model_graphs)
    check_float16_values(folder, bundle, written.graphs, written.state_bounds)
    return written.compared(reference.compare(OnnxLanguageModel(folder, written.graphs), FP16_TOLERANCE))


def _sentence_encoder(folder: Path, bundle: Bundle, checkpoint: Checkpoint) -> Variant:
    reference = SentenceEncoderReference(folder, bundle, checkpoint)
    written = reference.write(write_float16_sentence_encoder_graphs)
    check_float16_values(folder, bundle, written.graphs, written.state_bounds)
    return written.compared(reference.compare(OnnxSentenceEncoder(folder, written.graphs), FP16_EMBEDDING_TOLERANCE))
