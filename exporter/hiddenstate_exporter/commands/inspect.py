"""`hiddenstate inspect`. Torch is imported only once a command runs, so that --help is fast."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hiddenstate_exporter.commands.choices import Choices
from hiddenstate_exporter.commands.errors import clear_errors

if TYPE_CHECKING:
    from hiddenstate_exporter.inspection.gradient_flow import Flow

FLOW_EPILOG = """
\b
Examples:
  # fresh weights: every cell, with and without connections past its layers
  hiddenstate inspect gradient-flow --out pictures/ --connections none,residual --num-layers 8
\b
  # what training made of it
  hiddenstate inspect gradient-flow comparisons/emma/runs/*/best.pt --data emma.txt --out pictures/
"""

GATES_EPILOG = """
\b
Example:
  hiddenstate inspect gates models/english-lm/3 "I would like to thank you, Mr. President." --out pictures/
"""

OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="this folder",
    help="Folder for the picture and the numbers.",
)


@click.group("inspect")
def inspect() -> None:
    """Look into recurrent layers: how far gradients reach, what gates do (needs the extra "exporter")."""


@inspect.command("gradient-flow", epilog=FLOW_EPILOG, context_settings={"show_default": True})
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--data", "sources", multiple=True, metavar="SOURCE", help="With CHECKPOINTS: the text they read.")
@OUT
@click.option(
    "--cells", type=Choices("rnn", "lstm", "gru"), default="rnn,lstm,gru", metavar="LIST", help="Cells to look at."
)
@click.option(
    "--connections",
    type=Choices("none", "residual", "highway", "dense"),
    default="none,residual,highway,dense",
    metavar="LIST",
    help="Connections between layers to look at, each with every cell.",
)
@click.option("--num-layers", type=click.IntRange(min=1, max=8), default=4, help="Layers of fresh models.")
@click.option("--hidden-size", type=click.IntRange(min=1), default=128, help="Width of fresh models.")
@click.option("--forget-bias", type=float, default=1.0, help="Of fresh LSTMs; 1 is what training begins with.")
@click.option("--distance", type=click.IntRange(min=1), default=200, help="How far back to look, in tokens.")
@click.option("--contexts", type=click.IntRange(min=1), default=16, help="Contexts that norms are averaged over.")
@click.option("--seed", type=int, default=0, help="Of fresh weights and their tokens.")
@clear_errors
def gradient_flow(checkpoints: Sequence[Path], sources: Sequence[str], out: Path, **options: Any) -> None:
    """Measure how far back the loss of a token is felt.

    Writes the norm of its gradient at the token k before it, for k up to --distance, to gradient_flow.csv and .json,
    and draws gradient_flow.png. Without CHECKPOINTS (best.pt of language models) models with fresh weights are
    measured, of all --cells with all --connections.
    """
    from hiddenstate_exporter.inspection.pictures import write_flows

    if bool(checkpoints) != bool(sources):
        raise click.UsageError("CHECKPOINTS and --data go together: trained models read a text")
    distance, contexts = options["distance"], options["contexts"]
    if checkpoints:
        flows = _trained(checkpoints, sources, distance, contexts)
        title = "gradient of one token's loss, trained models"
    else:
        flows = _fresh(**options)
        layers = f"{options['num_layers']} layers of {options['hidden_size']}"
        title = f"gradient of one token's loss, fresh weights, {layers}"
    out.mkdir(parents=True, exist_ok=True)
    write_flows(flows, title, out)
    for flow in flows:
        far = f"{flow.norms[-1]:.2g}"
        click.echo(f"{flow.name}: a thousandth of the largest norm at distance {flow.reach}; {far} at {distance}")
    click.echo(f"picture: {out / 'gradient_flow.png'}, numbers: {out / 'gradient_flow.csv'} and .json")


@inspect.command("gates", epilog=GATES_EPILOG)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("sentence")
@OUT
@clear_errors
def gates(bundle: Path, sentence: str, out: Path) -> None:
    """Show what the gates of a BUNDLE do over the words of a SENTENCE.

    Writes the mean and the quantiles over the units to gates.csv, every unit to gates.json, and draws gates.png:
    forget, input and output gates of an LSTM, reset and update gates of a GRU, for each layer. A language model reads
    its mark for the beginning of a text first, as when it is served.
    """
    from hiddenstate_exporter.inspection.gates import gates_of_bundle
    from hiddenstate_exporter.inspection.pictures import write_gates

    found = gates_of_bundle(bundle, sentence)
    out.mkdir(parents=True, exist_ok=True)
    write_gates(found, out)
    for layer in found.layers:
        means = ", ".join(f"{gate} {values.mean():.3f}" for gate, values in layer.gates.items())
        click.echo(f"{layer.name}: {means}")
    click.echo(f"picture: {out / 'gates.png'}, numbers: {out / 'gates.csv'} and gates.json")


def _fresh(*, cells: Sequence[Any], connections: Sequence[Any], **options: Any) -> "list[Flow]":
    from hiddenstate_exporter.inspection.gradient_flow import fresh_flow

    return [fresh_flow(cell, kind, **options) for cell in cells for kind in connections]


def _trained(checkpoints: Sequence[Path], sources: Sequence[str], distance: int, contexts: int) -> "list[Flow]":
    import torch

    from hiddenstate_exporter.inspection.gradient_flow import trained_flow
    from hiddenstate_exporter.publishing.checkpoint_model import language_model_of
    from hiddenstate_exporter.training.checkpoint import load_checkpoint
    from hiddenstate_exporter.training.corpus import read_sources
    from hiddenstate_exporter.training.vocabulary import encode_stream, tokenizer_from_text

    paragraphs = [paragraph for document in read_sources(sources) for paragraph in document.paragraphs]
    flows = []
    for path in checkpoints:
        checkpoint = load_checkpoint(path)
        if checkpoint.kind != "language_model":
            raise ValueError(f"{path}: is a {checkpoint.kind}, not a language model")
        stream = torch.from_numpy(encode_stream(tokenizer_from_text(checkpoint.tokenizer), paragraphs))
        name = path.absolute().parent.name
        flows.append(trained_flow(name, language_model_of(checkpoint), stream, distance=distance, contexts=contexts))
    return flows
