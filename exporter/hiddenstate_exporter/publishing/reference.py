"""The PyTorch models that the graphs of a variant are written of, and compared with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hiddenstate_exporter.graphs.variant_graphs import VariantGraphs
from hiddenstate_exporter.publishing.checkpoint_model import (
    language_model_of,
    round_model,
    sentence_encoder_of,
    weights_of,
)
from hiddenstate_exporter.publishing.language_model_parity import check_language_model
from hiddenstate_exporter.publishing.onnx_model import OnnxLanguageModel, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.sentence_encoder_parity import check_sentence_encoder
from hiddenstate_exporter.training.checkpoint import Checkpoint
from hiddenstate_server.bundle import TOKENIZER_FILE, Bundle, Parity
from hiddenstate_server.tokenizer import Tokenizer, word_ranks

Write = Callable[..., VariantGraphs]  # takes what `graph.write_language_model_graphs` or its like takes, and `beside`


class LanguageModelReference:
    """The language model of a bundle in `folder`, with weights as they are stored there."""

    def __init__(self, folder: Path, bundle: Bundle, checkpoint: Checkpoint) -> None:
        spec = bundle.language_model
        assert spec is not None  # build_bundle has made it
        self._folder = folder
        self._beside = bundle.variants["fp32"].graphs
        self._model = language_model_of(checkpoint)
        round_model(self._model, bundle.dtype)
        self._ranks = word_ranks(Tokenizer.from_file(folder / TOKENIZER_FILE).words, spec.special_token_ids)

    def write(self, write: Write, **options: Any) -> VariantGraphs:
        """Has its graphs written into the folder, with these further options."""
        config = self._model.config
        return write(
            self._folder,
            weights_of(self._model),
            self._ranks,
            beside=self._beside,
            cell=config.cell,
            connections=config.connections,
            **options,
        )

    def compare(self, onnx_model: OnnxLanguageModel, tolerance: float) -> Parity:
        """Compares graphs with it; see `check_language_model`."""
        return check_language_model(onnx_model, self._model, self._ranks, tolerance)


class SentenceEncoderReference:
    """The sentence encoder of a bundle in `folder`, with weights as they are stored there."""

    def __init__(self, folder: Path, bundle: Bundle, checkpoint: Checkpoint) -> None:
        self._folder = folder
        self._beside = bundle.variants["fp32"].graphs
        self._model = sentence_encoder_of(checkpoint)
        round_model(self._model, bundle.dtype)

    def write(self, write: Write, **options: Any) -> VariantGraphs:
        """Has its graph written into the folder, with these further options."""
        config = self._model.config
        return write(
            self._folder,
            weights_of(self._model),
            pooling=config.pooling,
            normalized=config.normalized,
            beside=self._beside,
            cell=config.cell,
            connections=config.connections,
            **options,
        )

    def compare(self, onnx_model: OnnxSentenceEncoder, tolerance: float) -> Parity:
        """Compares a graph with it; see `check_sentence_encoder`."""
        return check_sentence_encoder(onnx_model, self._model, tolerance)
