"""What a run is: one TOML file of tables, each a struct. No PyTorch.

    hiddenstate train language-model --config run.toml --set optimizer.lr=20

The tables of a language model's run are here, those of a sentence encoder's in `sentence_encoder_config`.

Defaults, the file, options of the command line and `--set` are laid over each other in this order; the result is
kept beside the run as `config.toml`, in its checkpoints and in the bundle.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec
import tomli_w
from msgspec.structs import fields

from hiddenstate_exporter.graphs.stack_shape import MAX_LAYERS, Cell, Connections
from hiddenstate_exporter.networks.regularization import Regularization, Share
from hiddenstate_exporter.training.whole_file import write_whole

Size = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Tables = dict[str, dict[str, Any]]
Run = TypeVar("Run", bound=msgspec.Struct)


class RunConfigError(ValueError):
    """A run cannot be read; the message names the file or option, and the key."""


class DataConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is read: `sources`, of which parts are held out, or three texts apart."""

    sources: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    split: Literal["words", "whitespace"] = "words"  # whitespace: texts that are cut into words already
    vocab_size: Annotated[int, msgspec.Meta(ge=8)] | None = None  # None: 20,000, or all words of a smaller text
    description: str | None = None  # for the model card; the sources if there is none

    def __post_init__(self) -> None:
        if self.sources and (self.train or self.valid or self.test):
            raise ValueError("give sources, or train, valid and test, not both")
        if not self.sources and not (self.train and self.valid and self.test):
            raise ValueError("there is nothing to train on: give sources (--data), or train, valid and test")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network; see `LanguageModelConfig`."""

    cell: Cell = "lstm"
    connections: Connections = "none"
    embedding_size: Size = 256
    hidden_size: Size = 512
    num_layers: Annotated[int, msgspec.Meta(ge=1, le=MAX_LAYERS)] = 2
    projection_size: Annotated[int, msgspec.Meta(ge=0)] | None = None
    forget_bias: float | None = 1.0
    tied: bool = True
    head: Literal["softmax", "adaptive_softmax"] = "softmax"
    cutoffs: tuple[int, ...] = ()
    div_value: Annotated[float, msgspec.Meta(ge=1)] = 4.0


class BatchConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the text is read in training."""

    batch_size: Size = 64  # streams of text side by side
    bptt: Size = 32  # tokens that a gradient flows back through
    variable_bptt: bool = False  # windows of another length each time, around `bptt`
    fresh_start: Share = 0.05  # of the rows of a window begin without a past, as a context does when it is served
    sampled_softmax: Annotated[int, msgspec.Meta(ge=0)] = 0  # words drawn to train against; 0: all words


class OptimizerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes steps of gradients."""

    name: Literal["sgd", "nt-asgd", "adam", "adamw"] = "adamw"
    lr: Positive = 2e-3
    weight_decay: Amount = 0.01
    clip: Positive = 1.0  # largest norm of all gradients together
    momentum: Share = 0.0  # of sgd and nt-asgd
    betas: tuple[Share, Share] = (0.9, 0.999)  # of adam and adamw
    non_monotone: Size = 5  # of nt-asgd: validations that have to be beaten, or averaging begins


class ScheduleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The learning rate over a run."""

    kind: Literal["cosine", "linear", "plateau", "constant"] = "cosine"
    warmup_steps: Annotated[int, msgspec.Meta(ge=0)] = 100
    floor: Share = 0.01  # part of the rate that cosine and linear end at
    decay: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5  # plateau: factor of each validation without progress


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a run ends, and what it runs on."""

    max_epochs: Size = 40
    max_minutes: Positive | None = None  # over all resumptions
    max_tokens: Size | None = None
    patience: Size = 5  # validations in a row without a better number, then stop
    validations_per_epoch: Size = 1
    save_minutes: Positive = 5.0  # last.pt is written this often between validations
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    threads: Size | None = None


class LanguageModelTraining(TrainingConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a run ends, and what it runs on."""

    compile: bool = False  # torch.compile


class LanguageModelRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides what a training of a language model computes."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    regularization: Regularization = Regularization()
    batches: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: LanguageModelTraining = LanguageModelTraining()


def read_tables(path: Path) -> Tables:
    """Reads a TOML file.

    Raises:
        RunConfigError: it cannot be read, is not TOML, or has a key outside of a table.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunConfigError(f"{path}: not TOML: {error}") from None
    return content


def read_setting(text: str) -> tuple[str, Any]:
    """Reads KEY=VALUE, the value as TOML writes it; one that is no TOML is taken for a word, `none` for no value.

    Raises:
        RunConfigError: there is no `=` or no key.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise RunConfigError(f"--set {text!r}: must be KEY=VALUE, for example optimizer.lr=20")
    if value == "none":
        return key, None
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def lay_over(tables: Tables, settings: Iterable[tuple[str, Any]]) -> Tables:
    """Returns the tables with some keys, written TABLE.KEY, set to other values."""
    changed: dict[str, Any] = {
        name: dict(table) if isinstance(table, Mapping) else table for name, table in tables.items()
    }
    for path, value in settings:
        name, dot, key = path.partition(".")
        if not dot:
            raise RunConfigError(f"--set {path}: must name a table and a key, for example optimizer.lr")
        if isinstance(table := changed.setdefault(name, {}), dict):
            table[key] = value
    return changed


def make_run(kind: type[Run], tables: Mapping[str, Any], where: str) -> Run:
    """Makes the struct of a run; `where` says in errors what the tables come from.

    A table that is not there counts as an empty one.

    Raises:
        RunConfigError: a key is not known, or a value is out of range; the message names it.
    """
    _check_keys(kind, tables, where)
    try:
        return msgspec.convert({name: {} for name in kind.__struct_fields__} | _without_words(kind, tables), type=kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        place = place.rstrip("`")
        raise RunConfigError(f"{where}: {f'{place}: ' if place else ''}{reason[0].lower()}{reason[1:]}") from None


def to_tables(run: msgspec.Struct) -> Tables:
    """Returns a run as plain values; what has none is left out, or is "none" where the default is a value."""
    tables: Tables = msgspec.to_builtins(run)
    for name, table in tables.items():
        unset = _unset_by_word(type(getattr(run, name)))
        tables[name] = {
            key: "none" if value is None else value for key, value in table.items() if value is not None or key in unset
        }
    return tables


def write_tables(path: Path, tables: Mapping[str, Any]) -> None:
    """Writes a TOML file."""
    write_whole(path, tomli_w.dumps(tables))


def _unset_by_word(table: type[msgspec.Struct]) -> set[str]:
    """Returns the keys that may have no value although their default is one: TOML has no null, the word is "none"."""
    optional = {key for key, hint in get_type_hints(table).items() if type(None) in get_args(hint)}
    return {field.name for field in fields(table) if field.name in optional and field.default is not None}


def _without_words(kind: type[msgspec.Struct], tables: Mapping[str, Any]) -> Tables:
    """Returns the tables with no value in place of the word "none"."""
    known = get_type_hints(kind)
    read: Tables = {}
    for name, table in tables.items():
        unset = _unset_by_word(known[name])
        read[name] = {key: None if value == "none" and key in unset else value for key, value in table.items()}
    return read


def _check_keys(kind: type[msgspec.Struct], tables: Mapping[str, Any], where: str) -> None:
    """Says which key is not known, and which one may be meant."""
    known = get_type_hints(kind)
    for name, table in tables.items():
        if name not in known:
            raise RunConfigError(f"{where}: {name}: no such table{_suggest(name, known)}")
        if not isinstance(table, Mapping):
            raise RunConfigError(f"{where}: {name}: is a table, write [{name}] above its keys")
        keys = known[name].__struct_fields__
        for key in table:
            if key not in keys:
                raise RunConfigError(f"{where}: {name}.{key}: no such key{_suggest(key, keys)}")


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; is {close[0]} meant?" if close else f"; there are {', '.join(known)}"
