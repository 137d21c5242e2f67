"""Publishes a model as a bundle: builds it, compares it with PyTorch, and only then puts it in place."""

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from hiddenstate_exporter.foreign.transformer_folder import TransformerFolder
from hiddenstate_exporter.graphs.int8_embedding import FOLD_LIMIT
from hiddenstate_exporter.graphs.weights import StoredDtype
from hiddenstate_exporter.publishing.build import Label, build_bundle, finite
from hiddenstate_exporter.publishing.evaluation import Track
from hiddenstate_exporter.publishing.fp16_variant import add_fp16
from hiddenstate_exporter.publishing.int8_variant import add_int8
from hiddenstate_exporter.publishing.measurement import NO_DATA, Data, check_data, check_nothing_lost, measure
from hiddenstate_exporter.publishing.model_card import model_card
from hiddenstate_exporter.publishing.publication import check_name, check_target, next_version, served_instead, staged
from hiddenstate_exporter.publishing.source import Model, Source, read_source
from hiddenstate_exporter.publishing.transformer_build import build_transformer_bundle
from hiddenstate_server.bundle import CARD_FILE, Bundle, VariantName, load_bundle, write_bundle
from hiddenstate_server.repository.policy import POLICY_FILE

Echo = Callable[[str], None]
Further = Literal["fp16", "int8"]  # what may stand beside fp32

FURTHER: Final[tuple[Further, ...]] = get_args(Further)
DEFAULT_VARIANTS: Final = ("fp32", "int8")  # fp16 serves GPUs alone


class ExportError(ValueError):
    """A checkpoint cannot be published; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to publish it as."""

    to: Path
    name: str | None = None  # the name of the folder that the checkpoint lies in, or of the package
    version: str | None = None  # the next whole number
    license: str | None = None  # what the source says
    dtype: StoredDtype = "float16"
    data: Data = NO_DATA  # to measure it on, and compare it with the checkpoint
    variants: Collection[VariantName] = ()  # with fp32 among them; without any, DEFAULT_VARIANTS that pass their checks
    fold_limit: int = FOLD_LIMIT  # bytes; see `int8_embedding`
    check: bool = False  # do everything except publish


def export(path: Path, options: ExportOptions, *, echo: Echo = lambda line: None, track: Track = iter) -> Path:
    """Publishes the checkpoint or sentence-transformers folder at `path` as `to/NAME/VERSION` and returns that folder.

    Raises:
        ExportError: the source is damaged or its parts contradict each other, the graphs differ from PyTorch, or
            the numbers on `data` differ from the source's.
        PublicationError: the target exists or cannot be written.
        MeasurementError, CorpusError, StsError: `data` is of the wrong sort, cannot be read, or is not given where a
            variant that was asked for needs it.
        CheckpointError, TransformerFolderError, StateDictError, TeacherError: the source cannot be read, see `source`.
    """
    return publish(read_source(path), path, options, echo=echo, track=track)


def publish(
    source: Source,
    path: Path,
    options: ExportOptions,
    *,
    echo: Echo = lambda line: None,
    track: Track = iter,
) -> Path:
    """Publishes a model that was read from `path`; otherwise like `export`."""
    check_data(options.data, source.model.kind, is_needed=bool({*options.variants} & {*FURTHER}))
    name = options.name or source.name
    check_name("name", name)
    version = options.version or next_version(options.to / name)
    check_name("version", version)
    target = options.to / name / version
    label = Label(name=name, version=version, license=options.license or source.license(), dtype=options.dtype)
    with _scratch(target) if options.check else staged(target) as folder:
        if served := served_instead(target):
            echo(_passed_over(target, served))
        echo(f"building {name} {version} and comparing it with PyTorch")
        with _naming(path):
            bundle = _build(folder, source, label, options, echo, track)
        echo(f"size: {_size(folder) / 1e6:.1f} MB, weights stored as {bundle.dtype}")
    echo(f"{target}: would be written (nothing was: --check)" if options.check else f"{target}: written")
    return target


def _build(folder: Path, source: Source, label: Label, options: ExportOptions, echo: Echo, track: Track) -> Bundle:
    if isinstance(source.model, TransformerFolder):
        bundle = build_transformer_bundle(folder, source.model, label, source.origin)
    else:
        bundle = build_bundle(folder, source.model, label)
    echo(f"model: {bundle.kind.replace('_', ' ')}, {bundle.architecture}, {bundle.parameters:,} parameters")
    echo(f"tokenizer: {bundle.vocab_size:,} tokens")
    echo(_parity(bundle, "fp32"))
    if options.data:
        measured = measure(folder, bundle, options.data, checkpoint=source.model, track=track)
        check_nothing_lost(measured)
        bundle = msgspec.structs.replace(bundle, metrics={**bundle.metrics, **finite(measured.onnx)})
        bundle = write_bundle(bundle, folder)
    echo(f"metrics: {_list(bundle.metrics)}")
    for name in FURTHER:
        if name in (options.variants or DEFAULT_VARIANTS):
            bundle = _with_variant(name, folder, bundle, source.model, options, echo, track)
    (folder / CARD_FILE).write_text(model_card(bundle, size=_size(folder)), encoding="utf-8")
    return load_bundle(folder)  # as a server will read it


def _with_variant(
    name: Further, folder: Path, bundle: Bundle, model: Model, options: ExportOptions, echo: Echo, track: Track
) -> Bundle:
    try:
        if name == "int8":
            bundle = add_int8(folder, bundle, model, options.data, fold_limit=options.fold_limit, track=track)
        else:
            bundle = add_fp16(folder, bundle, model, options.data, track=track)
        echo(_parity(bundle, name))
        echo(f"metrics of {name} graphs: {_list(bundle.variants[name].metrics)}")
        return bundle
    except ValueError as error:  # of a check; nothing of these graphs is left
        if options.variants:
            raise ExportError(f"{name} graphs: {error}") from error
        echo(f"{name} graphs: not published: {error}")
        return bundle


def _passed_over(target: Path, served: Sequence[str]) -> str:
    versions = f"version {served[0]}" if len(served) == 1 else f"versions {', '.join(served)}"
    return (
        f"warning: servers will take {versions} and not {target.name}: choose a --version that is newer by its name, "
        f"or name this one in {target.parent / POLICY_FILE}"
    )


def _parity(bundle: Bundle, name: VariantName) -> str:
    parity = bundle.variants[name].parity
    return (
        f"parity of {name} graphs with PyTorch: differs by at most {parity.worst:.2g} in {parity.cases} cases, "
        f"allowed is {parity.tolerance:.2g}"
    )


def _list(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()) or "none"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    check_target(target)
    with tempfile.TemporaryDirectory(prefix="hiddenstate-export-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the source's path before every problem with its content."""
    try:
        yield
    except ValueError as error:
        raise ExportError(f"{path}: {error}") from error
