"""Makes a bundle of a checkpoint in a given folder: graphs, weights, tokenizer and `bundle.json`."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer as HuggingFaceTokenizer

from hiddenstate_exporter.graphs.graph import write_language_model_graphs, write_sentence_encoder_graphs
from hiddenstate_exporter.graphs.graph_builder import OPSET
from hiddenstate_exporter.graphs.weights import StoredDtype
from hiddenstate_exporter.publishing.checkpoint_model import (
    count_parameters,
    language_model_of,
    round_model,
    sentence_encoder_of,
    weights_of,
)
from hiddenstate_exporter.publishing.language_model_parity import check_language_model
from hiddenstate_exporter.publishing.onnx_model import OnnxLanguageModel, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.sentence_encoder_parity import check_sentence_encoder
from hiddenstate_exporter.training.checkpoint import Checkpoint, CheckpointError
from hiddenstate_exporter.training.vocabulary import EOS, UNK, token_id, tokenizer_from_text
from hiddenstate_server.bundle import (
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    Architecture,
    Bundle,
    LanguageModelSpec,
    Parity,
    SentenceEncoderSpec,
    Training,
    Variant,
    VariantName,
    write_bundle,
)
from hiddenstate_server.tokenizer import Tokenizer, word_ranks

VARIANT: Final[VariantName] = "fp32"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a bundle is called and under which terms it goes out."""

    name: str
    version: str
    license: str
    dtype: StoredDtype


def build_bundle(folder: Path, checkpoint: Checkpoint, label: Label) -> Bundle:
    """Writes all files of a bundle except its card into `folder`, checks the graphs against PyTorch, and returns it.

    Raises:
        CheckpointError: the checkpoint's parts are missing or do not fit together.
        WeightsError: the weights cannot be stored.
        ParityError: a graph's output differs from PyTorch's.
    """
    vocabulary = _Vocabulary.of(checkpoint)
    (folder / TOKENIZER_FILE).write_text(checkpoint.tokenizer, encoding="utf-8")
    build = _language_model if checkpoint.kind == "language_model" else _sentence_encoder
    return write_bundle(
        Bundle(
            schema_version=SCHEMA_VERSION,
            name=label.name,
            version=label.version,
            kind=checkpoint.kind,
            vocab_size=len(vocabulary.words),
            dtype=label.dtype,
            opset=OPSET,
            training=_training(checkpoint),
            metrics=finite(checkpoint.metrics),
            license=label.license,
            **build(folder, checkpoint, vocabulary, label.dtype),
        ),
        folder,
    )


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the numbers that JSON can hold."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


@dataclasses.dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokenizer: HuggingFaceTokenizer
    words: list[str]  # by token id

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "_Vocabulary":
        try:
            tokenizer = tokenizer_from_text(checkpoint.tokenizer)
            words = Tokenizer(tokenizer).words
        except ValueError as error:
            raise CheckpointError(f"tokenizer: {error}") from None
        if len(words) != checkpoint.config.get("vocab_size"):
            size = checkpoint.config.get("vocab_size")
            raise CheckpointError(f"tokenizer has {len(words)} tokens, but config.vocab_size is {size}")
        return cls(tokenizer, words)

    def ids(self, special_words: Mapping[str, str]) -> list[int]:
        """Returns the ids of bos, eos and unk; in our own training <eos> stands between texts, and so before each."""
        words = {"bos": EOS, "eos": EOS, "unk": UNK, **special_words}
        return [token_id(self.tokenizer, words[role]) for role in ("bos", "eos", "unk")]

    @property
    def special_ids(self) -> set[int]:
        return {token_id for token_id, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}


def _training(checkpoint: Checkpoint) -> Training:
    try:
        return msgspec.convert(dict(checkpoint.training), Training)
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"training: {error}") from None


def _language_model(
    folder: Path, checkpoint: Checkpoint, vocabulary: _Vocabulary, dtype: StoredDtype
) -> dict[str, Any]:
    """Writes the graphs of a language model; returns the fields of `Bundle` that depend on the kind."""
    model = language_model_of(checkpoint)
    round_model(model, dtype)
    weights, config = weights_of(model), model.config
    bos, eos, unk = vocabulary.ids(checkpoint.special_words)
    special_ids = sorted(vocabulary.special_ids | {bos, eos, unk})
    ranks = word_ranks(vocabulary.words, special_ids)
    graphs = write_language_model_graphs(
        folder, weights, ranks, cell=config.cell, connections=config.connections, dtype=dtype
    )
    return {
        "architecture": Architecture(
            cell=config.cell,
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            embedding_size=config.embedding_size,
            bidirectional=False,
            connections=config.connections,
            tied_embeddings=config.tied,
            head=config.head,
        ),
        "parameters": count_parameters(model),
        "variants": _variants(graphs, check_language_model(OnnxLanguageModel(folder, graphs), model, ranks)),
        "language_model": LanguageModelSpec(
            state_size=config.shape.state_size,
            output_offset=config.shape.output_offset,
            output_size=config.shape.output_size,
            bos_token_id=bos,
            eos_token_id=eos,
            unk_token_id=unk,
            special_token_ids=tuple(special_ids),
        ),
    }


def _sentence_encoder(
    folder: Path, checkpoint: Checkpoint, vocabulary: _Vocabulary, dtype: StoredDtype
) -> dict[str, Any]:
    """Writes the graph of a sentence encoder; returns the fields of `Bundle` that depend on the kind."""
    model = sentence_encoder_of(checkpoint)
    round_model(model, dtype)
    weights, config = weights_of(model), model.config
    graphs = write_sentence_encoder_graphs(
        folder,
        weights,
        pooling=config.pooling,
        normalized=config.normalized,
        cell=config.cell,
        connections=config.connections,
        dtype=dtype,
    )
    return {
        "architecture": Architecture(
            cell=config.cell,
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            embedding_size=config.embedding_size,
            bidirectional=config.bidirectional,
            connections=config.connections,
            pooling=config.pooling,
        ),
        "parameters": count_parameters(model),
        "variants": _variants(graphs, check_sentence_encoder(OnnxSentenceEncoder(folder, graphs), model)),
        "sentence_encoder": SentenceEncoderSpec(
            dimension=config.dimension, max_seq_length=config.max_seq_length, normalized=config.normalized
        ),
    }


def _variants(graphs: dict[str, str], parity: Parity) -> dict[VariantName, Variant]:
    return {VARIANT: Variant(graphs=graphs, parity=parity)}
