"""Bundles of the size of real ones, with random weights from a seed: what a model costs does not hang on what it says.

encoder   bidirectional LSTM-256, max pooling, vocabulary 20,000, vectors of 512
lm        LSTM 2x512, tied embeddings, vocabulary 20,000
step      LSTM 1x512 with a vocabulary of 500: hardly more than the recurrent step
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from hiddenstate_exporter.graphs.graph import write_language_model_graphs, write_sentence_encoder_graphs
from hiddenstate_exporter.graphs.graph_builder import OPSET
from hiddenstate_exporter.graphs.int8_graph import write_int8_language_model_graphs, write_int8_sentence_encoder_graphs
from hiddenstate_exporter.graphs.stack_shape import StackShape, tensor_shapes
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

SPECIALS = ("<eos>", "<unk>")
VOCAB_SIZE = 20_000
STEP_VOCAB_SIZE = 500
MAX_SEQ_LENGTH = 256

Name = Literal["encoder", "lm", "step"]
Weights = dict[str, NDArray[np.float32]]

_ENCODER = StackShape(
    cell="lstm", connections="none", input_size=256, hidden_size=256, num_layers=1, bidirectional=True
)
_TRAINING = Training(data="random numbers from a seed", command="benchmarks", seconds=0.0, epochs=0.0)
_PARITY = Parity(tolerance=1.0, worst=0.0, cases=1, provider="CPUExecutionProvider")


def words(vocab_size: int = VOCAB_SIZE) -> list[str]:
    """Returns the words that benchmark texts are made of."""
    return [f"w{number}" for number in range(vocab_size - len(SPECIALS))]


def write_bundles(folder: Path, seed: int) -> dict[Name, Path]:
    """Writes all bundles, each into a models folder of its own, and returns those folders; keeps what is there."""
    folders: dict[Name, Path] = {name: folder / f"{name}-{seed}" for name in ("encoder", "lm", "step")}
    if not folders["encoder"].exists():
        _write_encoder(folders["encoder"], seed)
    if not folders["lm"].exists():
        _write_language_model(folders["lm"], "lm", VOCAB_SIZE, num_layers=2, seed=seed)
    if not folders["step"].exists():
        _write_language_model(folders["step"], "step", STEP_VOCAB_SIZE, num_layers=1, seed=seed)
    return folders


def bundle_folder(models: Path) -> Path:
    """Returns the folder of the one bundle in a models folder."""
    return next(models.glob("*/*/bundle.json")).parent


def _write_encoder(models: Path, seed: int) -> None:
    target = _begin(models, "encoder", words())
    weights = _weights(_ENCODER, VOCAB_SIZE, seed)
    graphs = write_sentence_encoder_graphs(target, weights, pooling="max", normalized=False)
    int8 = write_int8_sentence_encoder_graphs(target, weights, pooling="max", normalized=False, beside=graphs)
    bundle = Bundle(
        schema_version=SCHEMA_VERSION,
        name="encoder",
        version="1",
        kind="sentence_encoder",
        architecture=Architecture(
            cell="lstm", num_layers=1, hidden_size=256, embedding_size=256, bidirectional=True, pooling="max"
        ),
        vocab_size=VOCAB_SIZE,
        parameters=sum(array.size for array in weights.values()),
        dtype="float16",
        opset=OPSET,
        variants={"fp32": Variant(graphs=graphs, parity=_PARITY), "int8": int8.compared(_PARITY)},
        sentence_encoder=SentenceEncoderSpec(
            dimension=_ENCODER.output_size, max_seq_length=MAX_SEQ_LENGTH, normalized=False
        ),
        training=_TRAINING,
        metrics={"spearman": 0.0},
        license="Apache-2.0",
    )
    write_bundle(bundle, target)


def _write_language_model(models: Path, name: str, vocab_size: int, *, num_layers: int, seed: int) -> None:
    target = _begin(models, name, words(vocab_size))
    shape = StackShape(cell="lstm", connections="none", input_size=512, hidden_size=512, num_layers=num_layers)
    weights = _weights(shape, vocab_size, seed)
    weights["decoder.weight"] = weights["embedding.weight"]
    weights["decoder.bias"] = np.zeros(vocab_size, dtype=np.float32)
    ranks = word_ranks([*SPECIALS, *words(vocab_size)], range(len(SPECIALS)))
    graphs = write_language_model_graphs(target, weights, ranks)
    int8 = write_int8_language_model_graphs(target, weights, ranks, beside=graphs)
    bundle = Bundle(
        schema_version=SCHEMA_VERSION,
        name=name,
        version="1",
        kind="language_model",
        architecture=Architecture(
            cell="lstm",
            num_layers=num_layers,
            hidden_size=512,
            embedding_size=512,
            bidirectional=False,
            tied_embeddings=True,
        ),
        vocab_size=vocab_size,
        parameters=sum(array.size for key, array in weights.items() if key != "decoder.weight"),
        dtype="float16",
        opset=OPSET,
        variants={"fp32": Variant(graphs=graphs, parity=_PARITY), "int8": int8.compared(_PARITY)},
        language_model=LanguageModelSpec(
            state_size=shape.state_size,
            output_offset=shape.output_offset,
            output_size=shape.output_size,
            bos_token_id=0,
            eos_token_id=0,
            unk_token_id=1,
            special_token_ids=(0, 1),
        ),
        training=_TRAINING,
        metrics={"perplexity": float(vocab_size)},
        license="Apache-2.0",
    )
    write_bundle(bundle, target)


def _begin(models: Path, name: str, vocabulary: Sequence[str]) -> Path:
    target = models / name / "1"
    target.mkdir(parents=True)
    tokens = [*SPECIALS, *vocabulary]
    tokenizer = Tokenizer(WordLevel({token: token_id for token_id, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r"\w+(?:['\u2019-]\w+)*|[^\w\s]"), behavior="removed", invert=True)
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.save(str(target / TOKENIZER_FILE))
    (target / CARD_FILE).write_text(f"# {name}\n\nRandom numbers from a seed, for benchmarks.\n", encoding="utf-8")
    return target


def _weights(shape: StackShape, vocab_size: int, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    sizes = {"embedding.weight": (vocab_size, shape.input_size), **tensor_shapes(shape)}
    return {name: (0.05 * rng.standard_normal(size)).astype(np.float32) for name, size in sizes.items()}
