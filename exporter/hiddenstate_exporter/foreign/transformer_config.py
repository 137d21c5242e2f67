"""The sizes of a BERT and the tensors that it must have (Devlin et al., "BERT", NAACL 2019)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from hiddenstate_exporter.foreign.transformer_files import Size, TransformerFolderError, read_settings
from hiddenstate_exporter.foreign.transformer_modules import Activation
from hiddenstate_exporter.graphs.weights import Weights

CONFIG_FILE: Final = "config.json"
MODEL_TYPE: Final = "bert"
ACTIVATIONS: Final[Mapping[str, Activation]] = {"gelu": "gelu", "relu": "relu"}

_PREFIX = "bert."  # of the encoder's tensors in a model that was saved with a head for its training
_UNUSED = ("pooler.", "cls.")  # layers that no sentence vector passes through


class BertConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a `config.json` says, as far as it decides what is computed."""

    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size
    type_vocab_size: Size
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"  # of the feed-forward layers
    position_embedding_type: str | None = "absolute"
    is_decoder: bool = False

    @property
    def activation(self) -> Activation:
        """Of the feed-forward layers."""
        return ACTIVATIONS[self.hidden_act]

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


class _Family(msgspec.Struct, frozen=True):
    model_type: str


def read_bert_config(folder: Path) -> BertConfig:
    """Reads and checks the config of a BERT.

    Raises:
        TransformerFolderError: another architecture, or settings that contradict each other.
    """
    path = folder / CONFIG_FILE
    family = read_settings(path, _Family).model_type
    if family != MODEL_TYPE:
        raise TransformerFolderError(
            f"{path}: model_type is {family!r}; the transformers that can be exported are those of model_type "
            f"{MODEL_TYPE!r}, such as all-MiniLM-L6-v2 and bge-small-en-v1.5"
        )
    config = read_settings(path, BertConfig)
    for problem in _problems(config):
        raise TransformerFolderError(f"{path}: {problem}")
    return config


def check_tensors(weights: Weights, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Checks that the weights of a file are just those that its config asks for.

    Raises:
        TransformerFolderError: a tensor is missing, left over or of another shape.
    """
    for name, shape in shapes.items():
        if name not in weights:
            raise TransformerFolderError(f"{path}: tensor {name!r} is missing, but {CONFIG_FILE} asks for it")
        if weights[name].shape != shape:
            found = list(weights[name].shape)
            raise TransformerFolderError(
                f"{path}: tensor {name!r} has shape {found}, but {CONFIG_FILE} asks for {list(shape)}"
            )
    for name in weights:
        if name not in shapes:
            raise TransformerFolderError(f"{path}: tensor {name!r} does not belong to what {CONFIG_FILE} describes")


def bert_tensors(weights: Weights) -> Weights:
    """Returns the tensors of the encoder itself, by the names that `tensor_shapes` lists."""
    names = {name: name.removeprefix(_PREFIX) for name in weights}
    return {short: weights[name] for name, short in names.items() if not short.startswith(_UNUSED)}


def tensor_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Lists the tensors of a BERT by the names that `transformers.BertModel` gives them."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, width),
        **_norm("embeddings", width),
    }
    for layer in range(config.num_hidden_layers):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            shapes |= _linear(f"{at}.attention.self.{part}", width, width)
        shapes |= _linear(f"{at}.attention.output.dense", width, width) | _norm(f"{at}.attention.output", width)
        shapes |= _linear(f"{at}.intermediate.dense", inner, width)
        shapes |= _linear(f"{at}.output.dense", width, inner) | _norm(f"{at}.output", width)
    return shapes


def _problems(config: BertConfig) -> list[str]:
    problems = []
    if config.hidden_size % config.num_attention_heads:
        problems.append(
            f"hidden_size is {config.hidden_size}, which cannot be divided among num_attention_heads, "
            f"{config.num_attention_heads}"
        )
    if config.hidden_act not in ACTIVATIONS:
        problems.append(f"hidden_act is {config.hidden_act!r}; supported are {' and '.join(ACTIVATIONS)}")
    if config.position_embedding_type not in (None, "absolute"):
        kind = config.position_embedding_type
        problems.append(f"position_embedding_type is {kind!r}; supported is 'absolute'")
    if config.is_decoder:
        problems.append("is_decoder is true; a sentence encoder reads whole sentences, not only what came before")
    return problems


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.LayerNorm.weight": (width,), f"{name}.LayerNorm.bias": (width,)}
