"""What a sentence-transformers model consists of: its modules, and the settings of those behind the transformer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from hiddenstate_exporter.foreign.transformer_files import Size, TransformerFolderError, read_settings
from hiddenstate_exporter.training.teacher import MODEL_MARKER

TransformerPooling = Literal["mean", "max", "cls", "last"]
Activation = Literal["identity", "tanh", "relu", "gelu"]

SUPPORTED: Final = "Transformer, then Pooling, then any of Dense and Normalize"
POOLINGS: Final[Mapping[str, TransformerPooling]] = {"mean": "mean", "max": "max", "cls": "cls", "lasttoken": "last"}
ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
}

_EMBEDDING = "sentence_embedding"
_OLD_POOLINGS = {  # one switch each, before sentence-transformers 5.3
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A linear layer behind the pooling."""

    path: str  # its folder, from that of the model
    in_features: int
    out_features: int
    bias: bool
    activation: Activation

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Lists its tensors."""
        bias: dict[str, tuple[int, ...]] = {"linear.bias": (self.out_features,)} if self.bias else {}
        return {"linear.weight": (self.out_features, self.in_features), **bias}


@dataclass(frozen=True, slots=True)
class Normalize:
    """Makes vectors have length 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """What follows the transformer, in the order in which a sentence passes it."""

    pooling: TransformerPooling
    head: tuple[Dense | Normalize, ...]


class Module(msgspec.Struct, frozen=True):
    """An entry of `modules.json`."""

    path: str
    type: str

    @property
    def kind(self) -> str:
        """The name of its class, if that is one of sentence-transformers' own."""
        package, _, name = self.type.rpartition(".")
        return name if package.partition(".")[0] == "sentence_transformers" else self.type


class _DenseSettings(msgspec.Struct, frozen=True, kw_only=True):
    in_features: Size
    out_features: Size
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    module_input_name: str = _EMBEDDING
    module_output_name: str | None = None
    use_residual: bool = False


def list_modules(folder: Path) -> list[Module]:
    """Reads which modules a model has; the first is the transformer.

    Raises:
        TransformerFolderError: there are others than are supported.
    """
    path = folder / MODEL_MARKER
    modules = read_settings(path, list[Module])
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or {*kinds[2:]} - {"Dense", "Normalize"}:
        raise TransformerFolderError(f"{path}: the modules are {', '.join(kinds) or 'none'}; supported is {SUPPORTED}")
    return modules


def read_modules(folder: Path, modules: Sequence[Module], hidden_size: int) -> Modules:
    """Reads what follows the transformer, whose outputs are `hidden_size` wide.

    Raises:
        TransformerFolderError: a module has settings that are not supported, or does not fit the one before it.
    """
    head: list[Dense | Normalize] = []
    width = hidden_size
    for module in modules[2:]:
        if module.kind == "Normalize":
            head.append(Normalize())
        else:
            head.append(dense := _read_dense(folder, module.path, width))
            width = dense.out_features
    pooling = _read_pooling(folder / modules[1].path / "config.json", hidden_size)
    return Modules(pooling=pooling, head=tuple(head))


def _read_pooling(path: Path, hidden_size: int) -> TransformerPooling:
    settings = read_settings(path, dict[str, Any])
    old = [mode for key, mode in _OLD_POOLINGS.items() if settings.get(key)]
    given = settings.get("pooling_mode", old or "mean")
    modes = given if isinstance(given, list) else [given]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        found = " and ".join(map(str, modes))
        raise TransformerFolderError(f"{path}: the pooling is {found}; supported is one of {', '.join(POOLINGS)}")
    width = settings.get("embedding_dimension", settings.get("word_embedding_dimension", hidden_size))
    if width != hidden_size:
        raise TransformerFolderError(f"{path}: pools {width} components, but the transformer gives {hidden_size}")
    return POOLINGS[modes[0]]


def _read_dense(folder: Path, name: str, width: int) -> Dense:
    path = folder / name / "config.json"
    settings = read_settings(path, _DenseSettings)
    if settings.in_features != width:
        raise TransformerFolderError(f"{path}: in_features is {settings.in_features}, but vectors come {width} wide")
    activation = settings.activation_function.rpartition(".")[2]
    if activation not in ACTIVATIONS:
        supported = ", ".join(ACTIVATIONS)
        raise TransformerFolderError(f"{path}: activation_function is {activation}; supported are {supported}")
    names = {settings.module_input_name, settings.module_output_name or _EMBEDDING}
    if settings.use_residual or names != {_EMBEDDING}:
        raise TransformerFolderError(f"{path}: supported is a layer from sentence_embedding to it, without a residual")
    return Dense(
        path=name,
        in_features=settings.in_features,
        out_features=settings.out_features,
        bias=settings.bias,
        activation=ACTIVATIONS[activation],
    )
