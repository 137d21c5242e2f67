"""Exports every architecture from random weights and writes how far its graphs are from PyTorch into a page.

    python benchmarks/parity_table.py --page docs/architectures.md   # all of them, into the page
    python benchmarks/parity_table.py --hidden-size 32 --depth 2     # some of them, on the terminal

Each model goes through `hiddenstate export`, whose grid of batch sizes, lengths, ragged lengths and initial states it
has to pass; the numbers are those of its bundle, for each variant the largest difference of any output in any case.
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

from hiddenstate_exporter.checkpoint import Checkpoint, save_checkpoint
from hiddenstate_exporter.export import ExportOptions, export
from hiddenstate_exporter.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.pooling_graph import Pooling
from hiddenstate_exporter.sentence_encoder import SentenceEncoder, SentenceEncoderConfig
from hiddenstate_exporter.stack_shape import Cell, Connections
from hiddenstate_exporter.vocabulary import train_word_tokenizer
from hiddenstate_server.bundle import Kind, VariantName, load_bundle

VOCAB_SIZE: Final = 200
DEPTHS: Final = (1, 2, 4)
HIDDEN_SIZES: Final = (32, 256)
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
@click.option("--hidden-size", "hidden_sizes", multiple=True, type=int, default=HIDDEN_SIZES, show_default=True)
@click.option("--depth", "depths", multiple=True, type=int, default=DEPTHS, show_default=True)
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Page to write into, between its marks.")
@click.option("--threads", default=1, show_default=True, help="CPU threads of PyTorch.")
@click.option("--seed", default=0, show_default=True, help="Of the weights.")
def main(hidden_sizes: Sequence[int], depths: Sequence[int], page: Path | None, threads: int, seed: int) -> None:
    """Exports every architecture and tells how far its graphs are from PyTorch."""
    torch.set_num_threads(threads)
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torch"))
    lines = [f"Measured with {packages} on {platform.machine()}; weights drawn from seed {seed}."]
    for hidden_size in hidden_sizes:
        table = Table([f"depth {depth}" for depth in depths])
        for row, depth in itertools.product(_stacks(), depths):
            table.results[row, f"depth {depth}"] = _worst(row, hidden_size, depth, seed)
        head = ["model", "direction", "cell", "connections"]
        lines += ["", f"Hidden size {hidden_size}, encoders with mean pooling:", "", *table.lines(head, Row.words)]
    poolings = Table(get_args(Pooling))
    for row in _poolings():
        key = Row(kind=row.kind, bidirectional=row.bidirectional, cell=row.cell)
        poolings.results[key, row.pooling] = _worst(row, hidden_sizes[0], 2, seed)
    head = ["model", "direction", "cell"]
    lines += ["", f"Poolings, hidden size {hidden_sizes[0]}, depth 2:", ""]
    lines += poolings.lines(head, lambda row: row.words()[:3])
    click.echo("\n".join(lines))
    if page is not None:
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


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
    """Exports a model and returns what its bundle says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        save_checkpoint(path, _checkpoint(row, hidden_size, depth, seed))
        published = export(path, ExportOptions(to=Path(folder) / "models", name="model"))
        variants = load_bundle(published).variants
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
        model = LanguageModel(LanguageModelConfig(**stack))
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
