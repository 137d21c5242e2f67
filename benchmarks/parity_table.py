"""Exports every architecture from random weights and writes how far its graphs are from PyTorch into a page.

    python -m benchmarks.parity_table --page docs/architectures.md   # all of them, into the page
    python -m benchmarks.parity_table --depth 2 --wide 0             # some of them, on the terminal

Each model is built as by `hiddenstate export`, and has to pass its grid of batch sizes, lengths, ragged lengths and
initial states; the numbers are those of its bundle, for each variant the largest difference of any output in any case.
Nothing is measured on text: random weights know none.
"""

import itertools
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args

import click
import torch
from torch import nn

from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoder, SentenceEncoderConfig
from hiddenstate_exporter.publishing.build import Label, build_bundle
from hiddenstate_exporter.publishing.fp16_variant import build_fp16
from hiddenstate_exporter.publishing.int8_variant import build_int8
from hiddenstate_exporter.training.checkpoint import Checkpoint
from hiddenstate_exporter.training.vocabulary import train_word_tokenizer
from hiddenstate_server.bundle import Kind, VariantName

VOCAB_SIZE: Final = 200
DEPTHS: Final = (1, 2, 4)
WIDE_DEPTH: Final = 2  # also of the models with other poolings
BEGIN, END = "<!-- written by benchmarks/parity_table.py -->", "<!-- end -->"

Worst = dict[VariantName, float]  # of each variant of a bundle the largest difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A model: everything but its depth."""

    kind: Kind
    bidirectional: bool
    cell: Cell
    connections: Connections = "none"
    pooling: Pooling = "mean"

    def words(self) -> list[str]:
        """Returns the first columns of a table."""
        kind = "language model" if self.kind == "language_model" else "encoder"
        return [kind, "both" if self.bidirectional else "forwards", self.cell.upper(), self.connections]


@dataclass(slots=True)
class Table:
    """Rows of models against one more choice, and what each model's bundle says."""

    columns: Sequence[str]
    results: dict[tuple[Row, str], Worst] = field(default_factory=dict)

    def lines(self, head: Sequence[str], words: Any) -> Iterator[str]:
        """Yields the lines of the table in Markdown; variants stand side by side."""
        variants = list(dict.fromkeys(name for worst in self.results.values() for name in worst))
        cells = [(column, variant) for variant in variants for column in self.columns]
        yield _line([*head, *(f"{variant}, {column}" for column, variant in cells)])
        yield _line(["---"] * len(head) + ["---:"] * len(cells))
        for row in dict.fromkeys(row for row, _ in self.results):
            worst = [self.results.get((row, column), {}).get(variant) for column, variant in cells]
            yield _line([*words(row), *("-" if value is None else f"{value:.1e}" for value in worst)])


@click.command()
@click.option("--hidden-size", default=32, show_default=True)
@click.option("--depth", "depths", multiple=True, type=int, default=DEPTHS, show_default=True)
@click.option(
    "--wide", default=256, show_default=True, help=f"Hidden size of more models of depth {WIDE_DEPTH}; 0: none."
)
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Page to write into, between its marks.")
@click.option("--threads", default=1, show_default=True, help="CPU threads of PyTorch.")
@click.option("--seed", default=0, show_default=True, help="Of the weights.")
def main(hidden_size: int, depths: Sequence[int], wide: int, page: Path | None, threads: int, seed: int) -> None:
    """Exports every architecture and tells how far its graphs are from PyTorch."""
    torch.set_num_threads(threads)
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torch"))
    lines = [f"Measured with {packages} on {platform.machine()}; weights drawn from seed {seed}."]
    lines += _stack_table(hidden_size, depths, seed)
    lines += _pooling_table(hidden_size, seed)
    lines += _stack_table(wide, [WIDE_DEPTH], seed) if wide else []
    click.echo("\n".join(lines))
    if page is not None:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


def _stack_table(hidden_size: int, depths: Sequence[int], seed: int) -> Iterator[str]:
    table = Table([f"depth {depth}" for depth in depths])
    for row, depth in itertools.product(_stacks(), depths):
        table.results[row, f"depth {depth}"] = _worst(row, hidden_size, depth, seed)
    yield from ("", f"Hidden size {hidden_size}, encoders with mean pooling:", "")
    yield from table.lines(["model", "direction", "cell", "connections"], Row.words)


def _pooling_table(hidden_size: int, seed: int) -> Iterator[str]:
    table = Table(get_args(Pooling))
    for row in _poolings():
        key = Row(kind=row.kind, bidirectional=row.bidirectional, cell=row.cell)
        table.results[key, row.pooling] = _worst(row, hidden_size, WIDE_DEPTH, seed)
    yield from ("", f"Poolings, hidden size {hidden_size}, depth {WIDE_DEPTH}, no connections:", "")
    yield from table.lines(["model", "direction", "cell"], lambda row: row.words()[:3])


def _stacks() -> Iterator[Row]:
    directions: list[tuple[Kind, bool]] = [
        ("language_model", False),
        ("sentence_encoder", False),
        ("sentence_encoder", True),
    ]
    for (kind, bidirectional), cell, connections in itertools.product(
        directions, get_args(Cell), get_args(Connections)
    ):
        yield Row(kind=kind, bidirectional=bidirectional, cell=cell, connections=connections)


def _poolings() -> Iterator[Row]:
    for bidirectional, cell, pooling in itertools.product((False, True), get_args(Cell), get_args(Pooling)):
        yield Row(kind="sentence_encoder", bidirectional=bidirectional, cell=cell, pooling=pooling)


def _worst(row: Row, hidden_size: int, depth: int, seed: int) -> Worst:
    """Builds a model's bundle and returns what it says."""
    checkpoint = _checkpoint(row, hidden_size, depth, seed)
    label = Label(name="model", version="1", license="none", dtype="float16")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = build_bundle(folder, checkpoint, label)
        fp16, int8 = (build(folder, bundle, checkpoint) for build in (build_fp16, build_int8))
    variants = {**bundle.variants, "fp16": fp16, "int8": int8}
    worst: Worst = {name: variant.parity.worst for name, variant in variants.items()}
    click.echo(f"{' '.join(row.words())} {row.pooling} {depth}x{hidden_size}: {worst}", err=True)
    return worst


def _checkpoint(row: Row, hidden_size: int, depth: int, seed: int) -> Checkpoint:
    torch.manual_seed(seed)
    stack: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "embedding_size": hidden_size,
        "hidden_size": hidden_size,
        "num_layers": depth,
        "cell": row.cell,
        "connections": row.connections,
    }
    model: LanguageModel | SentenceEncoder
    if row.kind == "language_model":
        model = LanguageModel(LanguageModelConfig(**stack, tied=False))  # so that logits are of a usual size
    else:
        encoder: dict[str, Any] = {"dimension": hidden_size, "pooling": row.pooling, "bidirectional": row.bidirectional}
        model = SentenceEncoder(SentenceEncoderConfig(**stack, **encoder))
    _draw(model)
    words = [f"w{number}" for number in range(VOCAB_SIZE - 2)]
    return Checkpoint(
        kind=row.kind,
        config=model.config.to_dict(),
        model=model.state_dict(),
        tokenizer=train_word_tokenizer([" ".join(words)], VOCAB_SIZE).to_str(),
        training={"data": "random weights", "command": "benchmarks/parity_table.py", "seconds": 0.0, "epochs": 0.0},
    )


def _draw(model: nn.Module) -> None:
    """Draws weights that make gates swing, unlike fresh ones, but keep rounding from growing from token to token."""
    for name, parameter in model.named_parameters():
        scale = 1.0 if name == "embedding.weight" else parameter.shape[-1] ** -0.5
        nn.init.normal_(parameter, std=scale if parameter.ndim > 1 else 0.1)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
