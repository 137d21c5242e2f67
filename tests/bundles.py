"""Tiny but complete model bundles for tests, made from a seed in well under a second and without PyTorch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from hiddenstate_exporter.graphs.graph import write_language_model_graphs, write_sentence_encoder_graphs
from hiddenstate_exporter.graphs.graph_builder import OPSET
from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections, StackShape, tensor_shapes
from hiddenstate_exporter.graphs.weights import StoredDtype
from hiddenstate_server.bundle import (
    CARD_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    Architecture,
    Bundle,
    LanguageModelSpec,
    Parity,
    SentenceEncoderSpec,
    Training,
    Variant,
    write_bundle,
)
from hiddenstate_server.tokenizer import word_ranks

EOS, UNK = "<eos>", "<unk>"
SPECIALS = (EOS, UNK)  # ids 0 and 1

# Many of these begin alike (the, then, there, they; can, cannot, car), and some differ only in case.
_WORDS = """
    the then there they this that those a an and are as at be been but by can cannot car for from had has have he her
    his I in is it it's like new no not of on one or our she so some thank thanks time to up was we well-known were
    what when which who will with word would you The They I'd . , ? ! ; "
"""
WORDS = tuple(_WORDS.split())

_TRAINING = Training(data="random numbers from a seed", command="tests", seconds=0.0, epochs=0.0)
_PARITY = Parity(tolerance=1e-4, worst=0.0, cases=1, provider="CPUExecutionProvider")

ATTENTION_HEADS, ATTENTION_SIZE = 3, 6

Weights = dict[str, NDArray[np.float32]]


def language_model_bundle(
    folder: Path,
    *,
    name: str = "tiny-lm",
    version: str = "1",
    words: Sequence[str] = WORDS,
    hidden_size: int = 16,
    embedding_size: int = 8,
    num_layers: int = 2,
    cell: Cell = "lstm",
    connections: Connections = "none",
    seed: int = 0,
    dtype: StoredDtype = "float16",
) -> Path:
    """Writes a language model to `folder/name/version` and returns that path."""
    target = _new_folder(folder, name, version)
    vocabulary = [*SPECIALS, *words]
    word_tokenizer(vocabulary).save(str(target / TOKENIZER_FILE))
    shape = StackShape(
        cell=cell, connections=connections, input_size=embedding_size, hidden_size=hidden_size, num_layers=num_layers
    )
    weights = language_model_weights(len(vocabulary), shape, seed)
    ranks = word_ranks(vocabulary, range(len(SPECIALS)))
    graphs = write_language_model_graphs(target, weights, ranks, cell=cell, connections=connections, dtype=dtype)
    bundle = Bundle(
        schema_version=SCHEMA_VERSION,
        name=name,
        version=version,
        kind="language_model",
        architecture=Architecture(
            cell=cell,
            num_layers=num_layers,
            hidden_size=hidden_size,
            embedding_size=embedding_size,
            bidirectional=False,
            connections=connections,
            tied_embeddings=True,
        ),
        vocab_size=len(vocabulary),
        parameters=_count(weights, without="decoder.weight"),
        dtype=dtype,
        opset=OPSET,
        variants={"fp32": Variant(graphs=graphs, parity=_PARITY)},
        language_model=LanguageModelSpec(
            state_size=shape.state_size,
            output_offset=shape.output_offset,
            output_size=shape.output_size,
            bos_token_id=vocabulary.index(EOS),
            eos_token_id=vocabulary.index(EOS),
            unk_token_id=vocabulary.index(UNK),
            special_token_ids=tuple(range(len(SPECIALS))),
        ),
        training=_TRAINING,
        metrics={"perplexity": float(len(vocabulary))},
        license="Apache-2.0",
    )
    return _finish(bundle, target)


def sentence_encoder_bundle(
    folder: Path,
    *,
    name: str = "tiny-encoder",
    version: str = "1",
    words: Sequence[str] = WORDS,
    hidden_size: int = 10,
    embedding_size: int = 8,
    num_layers: int = 1,
    cell: Cell = "lstm",
    connections: Connections = "none",
    bidirectional: bool = True,
    dimension: int = 12,
    pooling: Pooling = "mean",
    normalized: bool = True,
    max_seq_length: int = 64,
    seed: int = 0,
    dtype: StoredDtype = "float16",
) -> Path:
    """Writes a sentence encoder to `folder/name/version` and returns that path."""
    target = _new_folder(folder, name, version)
    vocabulary = [*SPECIALS, *words]
    word_tokenizer(vocabulary).save(str(target / TOKENIZER_FILE))
    shape = StackShape(
        cell=cell,
        connections=connections,
        input_size=embedding_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        bidirectional=bidirectional,
    )
    weights = sentence_encoder_weights(len(vocabulary), shape, dimension, pooling, seed)
    graphs = write_sentence_encoder_graphs(
        target, weights, pooling=pooling, normalized=normalized, cell=cell, connections=connections, dtype=dtype
    )
    bundle = Bundle(
        schema_version=SCHEMA_VERSION,
        name=name,
        version=version,
        kind="sentence_encoder",
        architecture=Architecture(
            cell=cell,
            num_layers=num_layers,
            hidden_size=hidden_size,
            embedding_size=embedding_size,
            bidirectional=bidirectional,
            connections=connections,
            pooling=pooling,
        ),
        vocab_size=len(vocabulary),
        parameters=_count(weights),
        dtype=dtype,
        opset=OPSET,
        variants={"fp32": Variant(graphs=graphs, parity=_PARITY)},
        sentence_encoder=SentenceEncoderSpec(dimension=dimension, max_seq_length=max_seq_length, normalized=normalized),
        training=_TRAINING,
        metrics={"spearman": 0.0},
        license="Apache-2.0",
    )
    return _finish(bundle, target)


def language_model_weights(vocab_size: int, shape: StackShape, seed: int) -> Weights:
    """Draws weights, named as in `stack_shape`, that keep candidates well apart and make the past matter."""
    rng = np.random.default_rng(seed)
    weights = {"embedding.weight": _draw(rng, 1.5, vocab_size, shape.input_size)}
    weights |= _stack_weights(rng, shape)
    if shape.output_size != shape.input_size:
        weights |= _linear_weights(rng, "projection", 0.4, shape.input_size, shape.output_size)
    weights |= _linear_weights(rng, "decoder", 1.0, vocab_size, shape.input_size)
    return weights | {"decoder.weight": weights["embedding.weight"]}


def sentence_encoder_weights(
    vocab_size: int, shape: StackShape, dimension: int, pooling: Pooling, seed: int
) -> Weights:
    """Draws weights, named as in `stack_shape`."""
    rng = np.random.default_rng(seed)
    weights = {"embedding.weight": _draw(rng, 1.5, vocab_size, shape.input_size)}
    weights |= _stack_weights(rng, shape)
    heads = ATTENTION_HEADS if pooling == "attention" else 1
    if pooling == "attention":
        weights["pooling.w1.weight"] = _draw(rng, 0.7, ATTENTION_SIZE, shape.output_size)
        weights["pooling.w2.weight"] = _draw(rng, 1.0, heads, ATTENTION_SIZE)
    return weights | _linear_weights(rng, "projection", 1.0, dimension, heads * shape.output_size)


def _stack_weights(rng: np.random.Generator, shape: StackShape) -> Weights:
    # Of such weights only an LSTM is not chaotic: in others rounding would grow from token to token.
    damping = {"rnn": 0.35, "gru": 0.6, "lstm": 1.0}[shape.cell]
    scales = {"rnn.weight_ih": 1.0 * damping, "rnn.weight_hh": 0.7 * damping, "rnn.bias": 0.2, "rnn.highway": 0.5}
    return {
        name: _draw(rng, next(scale for start, scale in scales.items() if name.startswith(start)), *size)
        for name, size in tensor_shapes(shape).items()
    }


def _linear_weights(rng: np.random.Generator, name: str, scale: float, rows: int, columns: int) -> Weights:
    return {f"{name}.weight": _draw(rng, scale, rows, columns), f"{name}.bias": _draw(rng, 0.1, rows)}


def _draw(rng: np.random.Generator, scale: float, *shape: int) -> NDArray[np.float32]:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def _count(weights: Weights, without: str = "") -> int:
    return sum(array.size for name, array in weights.items() if name != without)


def word_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """Makes a tokenizer of these words; their places in the list are their ids."""
    tokenizer = Tokenizer(WordLevel({word: token_id for token_id, word in enumerate(vocabulary)}, unk_token=UNK))
    words = Regex(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")
    tokenizer.pre_tokenizer = Split(words, behavior="removed", invert=True)
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def _new_folder(folder: Path, name: str, version: str) -> Path:
    target = folder / name / version
    target.mkdir(parents=True)
    return target


def _finish(bundle: Bundle, target: Path) -> Path:
    (target / CARD_FILE).write_text(f"# {bundle.name}\n\nMade from a seed, for tests.\n", encoding="utf-8")
    write_bundle(bundle, target)
    return target
