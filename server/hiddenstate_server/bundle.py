"""The on-disk form of a model: a folder `NAME/VERSION/` with `bundle.json`, a tokenizer and ONNX graphs.

    bundle.json      what the model is, with a checksum of every other file (this module owns its schema)
    tokenizer.json   Hugging Face `tokenizers` file
    *.onnx           graphs; their weights lie in weights.bin (ONNX external data), stored in `dtype`
    weights.bin      (those that only the graphs of another variant have, in weights.VARIANT.bin)
    README.md        model card

Graphs, by kind (all arrays batch-first; `seq` and `batch` are dynamic):

    language_model
      recurrent   tokens int64 [batch, seq], lengths int32 [batch] (1..seq), state float32 [batch, state_size]
                  -> outputs float32 [batch, seq, output_size], next_state float32 [batch, state_size]
      head        hidden float32 [rows, output_size], k int64 [1], targets int64 [rows],
                  restrict bool [], rank_low int64 [rows], rank_high int64 [rows]
                  -> top_log_probs float32 [rows, k], top_ids int64 [rows, k], target_log_probs float32 [rows]
    sentence_encoder
      encoder     tokens int64 [batch, seq], lengths int32 [batch] (1..seq) -> embeddings float32 [batch, dimension]

`state` packs the state tensors of all layers side by side; `output_offset` says where in it the last output
(the head's `hidden`) lies. With `restrict`, only tokens whose rank r (see `tokenizer.WordIndex`) has
rank_low <= r < rank_high are candidates; all others get -inf.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from hiddenstate_server.errors import BundleError
from hiddenstate_server.schema import schema

SCHEMA_VERSION = 1
BUNDLE_FILE = "bundle.json"
TOKENIZER_FILE = "tokenizer.json"
CARD_FILE = "README.md"

VariantName = Literal["fp32", "fp16", "int8"]  # what the products are computed in
Kind = Literal["language_model", "sentence_encoder"]
Size = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Index = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

GRAPHS: Mapping[Kind, frozenset[str]] = {
    "language_model": frozenset({"recurrent", "head"}),
    "sentence_encoder": frozenset({"encoder"}),
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Architecture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the network looks like."""

    cell: Literal["rnn", "lstm", "gru", "transformer"]
    num_layers: Size
    hidden_size: Size  # of one direction
    embedding_size: Size
    bidirectional: bool
    connections: Literal["none", "residual", "highway", "dense"] = "none"  # between layers
    tied_embeddings: bool = False
    head: Literal["softmax", "adaptive_softmax"] = "softmax"  # of a language model
    pooling: Literal["mean", "max", "last", "cls", "attention"] | None = None  # of a sentence encoder

    def __str__(self) -> str:
        words = ["bidirectional"] if self.bidirectional else []
        words += [self.cell if self.cell == "transformer" else self.cell.upper()]
        words += [f"{self.num_layers}x{self.hidden_size}, embedding {self.embedding_size}"]
        words += ["(tied)"] if self.tied_embeddings else []
        extras = [f"{self.connections} connections"] if self.connections != "none" else []
        extras += ["adaptive softmax"] if self.head == "adaptive_softmax" else []
        extras += [f"{self.pooling} pooling"] if self.pooling else []
        return " ".join(words) + (f" with {' and '.join(extras)}" if extras else "")


class LanguageModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a server needs to know to run a language model."""

    state_size: Size  # float32 values of one context's state
    output_offset: Index  # where the last output lies in the state
    output_size: Size
    bos_token_id: Index  # stands before every context
    eos_token_id: Index  # ends a text
    unk_token_id: Index
    special_token_ids: tuple[Index, ...]  # never answered as candidates


class SentenceEncoderSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a server needs to know to run a sentence encoder."""

    dimension: Size
    max_seq_length: Size  # tokens
    normalized: bool


class Parity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How near the graphs came to PyTorch before they were published (absolute difference of outputs)."""

    tolerance: Amount
    worst: Amount
    mean: Amount | None = None
    cases: Size
    provider: str


class StateBound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the state whose values never leave -bound..bound."""

    offset: Index
    size: Size
    bound: Amount


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One set of graphs of a bundle, named by what its products are computed in."""

    graphs: dict[str, str]  # graph name -> file name
    parity: Parity
    metrics: dict[str, float] = {}  # where they differ from the bundle's
    activation_bounds: dict[str, Amount] = {}  # of what int8 products read: tensor -> largest absolute value
    state_bounds: tuple[StateBound, ...] = ()  # what a given state must keep to for products to read it whole
    weight_bits: int = 8  # of int8 products; with 7 no pair of them leaves 16 bits, and every CPU computes the same


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a model comes from, in words for people."""

    data: str
    command: str
    seconds: Amount
    epochs: Amount
    config: dict[str, dict[str, Any]] = {}  # everything that the run was given: tables of keys and values


@schema
class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of a `bundle.json`."""

    schema_version: int
    name: str
    version: str
    kind: Kind
    architecture: Architecture
    vocab_size: Size
    parameters: Size
    dtype: Literal["float32", "float16"]  # of the stored weights, whatever the graphs compute in
    opset: Size
    variants: dict[VariantName, Variant]
    language_model: LanguageModelSpec | None = None
    sentence_encoder: SentenceEncoderSpec | None = None
    training: Training
    metrics: dict[str, float]
    license: str
    files: dict[str, Sha256] = {}

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that differ between any two models: a state of one is not a state of the other."""
        text = msgspec.json.encode([self.name, self.version, sorted(self.files.items())])
        return hashlib.blake2b(text, digest_size=16).digest()


def load_bundle(folder: Path) -> Bundle:
    """Reads and checks a bundle folder: schema, cross-references and the checksum of every file.

    Raises:
        BundleError: something is missing, damaged or contradictory; the message says what and in which file.
    """
    path = folder / BUNDLE_FILE
    try:
        data = path.read_bytes()
        # Before anything else: what another schema holds is no mistake of its author.
        _check_schema(msgspec.json.decode(data, type=_Schema), path)
        bundle = msgspec.json.decode(data, type=Bundle)
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file; a model bundle needs one") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        is_damaged = not isinstance(error, OSError | msgspec.ValidationError)
        raise BundleError(f"{path}: {error}{'; copy the bundle again' if is_damaged else ''}") from None
    _check_fields(bundle, path)
    for name, checksum in bundle.files.items():
        _check_file(folder / name, checksum)
    return bundle


def write_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """Writes `bundle.json` beside the files that lie in `folder`, with their checksums, and returns what it wrote.

    Raises:
        BundleError: the bundle would not load.
        OSError: the file cannot be written.
    """
    # A model card may be corrected without making another model of it, so it has no checksum.
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name not in (BUNDLE_FILE, CARD_FILE))
    bundle = msgspec.structs.replace(bundle, files={name: file_checksum(folder / name) for name in names})
    _check_fields(bundle, folder / BUNDLE_FILE)
    (folder / BUNDLE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(bundle), indent=2) + b"\n")
    return bundle


def file_checksum(path: Path) -> str:
    """Returns the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_model_name(name: str) -> bool:
    """Tells whether a name or version is safe as a folder name and as a metric label."""
    return _NAME.fullmatch(name) is not None


@schema
class _Schema(msgspec.Struct):
    schema_version: int


def _check_schema(schema: _Schema, path: Path) -> None:
    if schema.schema_version != SCHEMA_VERSION:
        raise BundleError(f"{path}: schema_version: is {schema.schema_version}, this release reads {SCHEMA_VERSION}")


def _check_fields(bundle: Bundle, path: Path) -> None:
    for field, problem in _problems(bundle):
        raise BundleError(f"{path}: {field}: {problem}")


def _problems(bundle: Bundle) -> list[tuple[str, str]]:
    """Lists what msgspec's types cannot express."""
    problems = []
    problems += [(f, "is not a valid name") for f in ("name", "version") if not is_model_name(getattr(bundle, f))]
    problems += [("files", f"{n!r} is not a plain file name") for n in bundle.files if not is_model_name(n)]
    if TOKENIZER_FILE not in bundle.files:
        problems.append(("files", f"{TOKENIZER_FILE} is not listed"))
    if getattr(bundle, bundle.kind) is None:
        problems.append((bundle.kind, f"is missing, but kind is {bundle.kind}"))
    if not bundle.variants:
        problems.append(("variants", "is empty"))
    for name, variant in bundle.variants.items():
        if variant.graphs.keys() != GRAPHS[bundle.kind]:
            problems.append((f"variants.{name}.graphs", f"must name {', '.join(sorted(GRAPHS[bundle.kind]))}"))
        problems += [
            (f"variants.{name}.graphs", f"{file!r} is not listed in files")
            for file in variant.graphs.values()
            if file not in bundle.files
        ]
    if bundle.language_model is not None:
        problems += _language_model_problems(bundle.language_model, bundle.vocab_size)
    return problems


def _language_model_problems(spec: LanguageModelSpec, vocab_size: int) -> list[tuple[str, str]]:
    problems = []
    if spec.output_offset + spec.output_size > spec.state_size:
        problems.append(("language_model.output_offset", "the output does not fit into the state"))
    token_ids = {
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": spec.eos_token_id,
        "unk_token_id": spec.unk_token_id,
        "special_token_ids": max(spec.special_token_ids, default=0),
    }
    problems += [
        (f"language_model.{field}", f"{token_id} is outside the vocabulary of {vocab_size}")
        for field, token_id in token_ids.items()
        if token_id >= vocab_size
    ]
    return problems


def _check_file(path: Path, checksum: str) -> None:
    try:
        actual = file_checksum(path)
    except FileNotFoundError:
        raise BundleError(f"{path}: no such file, but {BUNDLE_FILE} lists it; copy the bundle again") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    if actual != checksum:
        raise BundleError(
            f"{path}: SHA-256 is {actual[:12]}..., {BUNDLE_FILE} says {checksum[:12]}...; "
            "the file is damaged or was changed: copy the bundle again"
        )
