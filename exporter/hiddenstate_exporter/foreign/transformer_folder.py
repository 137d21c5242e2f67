"""A sentence-transformers folder with a BERT in it: everything that the export needs to know of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers

from hiddenstate_exporter.foreign.transformer_config import (
    BertConfig,
    bert_tensors,
    check_tensors,
    read_bert_config,
    tensor_shapes,
)
from hiddenstate_exporter.foreign.transformer_files import (
    Size,
    TransformerFolderError,
    read_settings,
    read_tensors,
    weights_path,
)
from hiddenstate_exporter.foreign.transformer_modules import Dense, Modules, Normalize, list_modules, read_modules
from hiddenstate_exporter.graphs.weights import Weights
from hiddenstate_exporter.training.vocabulary import load_tokenizer
from hiddenstate_server.bundle import TOKENIZER_FILE, Kind
from hiddenstate_server.tokenizer import Tokenizer as ServedTokenizer

LIMITS_FILE: Final = "sentence_bert_config.json"
TOKENIZER_CONFIG_FILE: Final = "tokenizer_config.json"
PROMPTS_FILE: Final = "config_sentence_transformers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerFolder:
    """A model as it lies in its folder."""

    folder: Path
    config: BertConfig
    modules: Modules
    tokenizer: str  # text of a tokenizer.json that neither pads nor cuts
    vocab_size: int  # of the tokenizer
    max_seq_length: int  # tokens, with the marks around a sentence
    weights: Weights  # the transformer's by the names of `tensor_shapes`, each Dense's below the name of its folder

    @property
    def kind(self) -> Kind:
        """What it becomes."""
        return "sentence_encoder"

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        widths = [module.out_features for module in self.modules.head if isinstance(module, Dense)]
        return [self.config.hidden_size, *widths][-1]

    @property
    def normalized(self) -> bool:
        """Whether vectors have length 1."""
        return bool(self.modules.head) and isinstance(self.modules.head[-1], Normalize)


class _Limits(msgspec.Struct, frozen=True, kw_only=True):
    max_seq_length: Size | None = None
    do_lower_case: bool = False


def read_transformer(folder: Path) -> TransformerFolder:
    """Reads and checks a folder.

    Raises:
        TransformerFolderError: a file is missing or damaged, the model is of another architecture, or its parts
            contradict each other.
        StateDictError: a file of weights is damaged.
    """
    listed = list_modules(folder)
    home = folder / listed[0].path
    config = read_bert_config(home)
    modules = read_modules(folder, listed, config.hidden_size)
    _check_prompt(folder / PROMPTS_FILE)
    limits = read_settings(home / LIMITS_FILE, _Limits) if (home / LIMITS_FILE).exists() else _Limits()
    tokenizer = _read_tokenizer(home, lower=limits.do_lower_case)
    served = _check_tokenizer(tokenizer, config, home)
    return TransformerFolder(
        folder=folder,
        config=config,
        modules=modules,
        tokenizer=tokenizer.to_str(pretty=True),
        vocab_size=served.vocab_size,
        max_seq_length=_read_max_seq_length(home, limits, config, served.num_marks),
        weights=_read_weights(folder, home, config, modules),
    )


def _check_prompt(path: Path) -> None:
    """Refuses a model that puts words before every sentence: a server takes sentences as they are."""
    settings = read_settings(path, dict[str, Any]) if path.exists() else {}
    name = settings.get("default_prompt_name")
    prompt = (settings.get("prompts") or {}).get(name) if name else None
    if prompt:
        raise TransformerFolderError(
            f"{path}: default_prompt_name is {name!r}, which puts {prompt!r} before every sentence, but a server "
            "takes sentences as they are; set it to null, and have callers put the prompt before their sentences"
        )


def _read_tokenizer(home: Path, *, lower: bool) -> Tokenizer:
    try:
        tokenizer = load_tokenizer(home / TOKENIZER_FILE)
    except ValueError as error:
        raise TransformerFolderError(
            f"{error}; save the model once with a fast tokenizer and sentence-transformers 5 or later"
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if lower:
        tokenizer.normalizer = Normalizers([Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer else [])])
    return tokenizer


def _check_tokenizer(tokenizer: Tokenizer, config: BertConfig, home: Path) -> ServedTokenizer:
    """Wraps the tokenizer as a server does."""
    path = home / TOKENIZER_FILE
    try:
        served = ServedTokenizer(tokenizer)
    except ValueError as error:
        raise TransformerFolderError(f"{path}: {error}") from None
    if served.vocab_size > config.vocab_size:
        raise TransformerFolderError(
            f"{path}: has {served.vocab_size} tokens, but config.json's vocab_size is {config.vocab_size}"
        )
    return served


def _read_max_seq_length(home: Path, limits: _Limits, config: BertConfig, num_marks: int) -> int:
    """Reads where sentences are cut: as sentence-transformers in one of two files, or else at the last position."""
    most = config.max_position_embeddings
    if limits.max_seq_length is None:
        path = home / TOKENIZER_CONFIG_FILE
        length = min(_model_max_length(path), most)
    else:
        path, length = home / LIMITS_FILE, limits.max_seq_length
    if length > most:
        raise TransformerFolderError(
            f"{path}: max_seq_length is {length}, but config.json's max_position_embeddings is {most}"
        )
    if length <= num_marks:
        raise TransformerFolderError(
            f"{path}: sentences are cut at {length} tokens, which leaves no room beside the {num_marks} marks that "
            f"{TOKENIZER_FILE} puts around each"
        )
    return length


def _model_max_length(path: Path) -> int:
    settings = read_settings(path, dict[str, Any]) if path.exists() else {}
    length = settings.get("model_max_length")
    return int(length) if isinstance(length, int | float) else 2**31 - 1


def _read_weights(folder: Path, home: Path, config: BertConfig, modules: Modules) -> Weights:
    weights = dict(bert_tensors(read_tensors(home)))
    check_tensors(weights, tensor_shapes(config), weights_path(home))
    for dense in modules.head:
        if isinstance(dense, Dense):
            tensors = read_tensors(folder / dense.path)
            check_tensors(tensors, dense.shapes, weights_path(folder / dense.path))
            weights |= {f"{dense.path}.{name}": array for name, array in tensors.items()}
    return weights
