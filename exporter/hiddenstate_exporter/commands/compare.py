"""`hiddenstate compare`. Torch is imported only once the command runs, so that --help is fast."""

from pathlib import Path
from typing import Any, Final

import click

from hiddenstate_exporter.commands.choices import Choices
from hiddenstate_exporter.commands.config_options import config_options, given_keys, read_run
from hiddenstate_exporter.commands.errors import EXIT_INTERRUPTED, clear_errors, command_line
from hiddenstate_exporter.commands.threads import THREADS, use_threads
from hiddenstate_exporter.training.run_config import LanguageModelRun

EPILOG = """
\b
Examples:
  # RNN, LSTM and GRU, five minutes each
  hiddenstate compare --data emma.txt --out comparisons/emma --max-minutes 5
\b
  # the same number of tokens for each, two seeds, and connections between four layers
  hiddenstate compare --data novels/ --out comparisons/deep --max-tokens 5000000 --seeds 2 \\
      --cells lstm,gru --connections none,residual,highway,dense --set model.num_layers=4
\b
  # everything else as in a run's file
  hiddenstate compare --config run.toml --out comparisons/run --max-minutes 20 --parameters 6000000
"""

KEYS: Final = {
    "sources": "data.sources",
    "max_minutes": "training.max_minutes",
    "max_tokens": "training.max_tokens",
    "threads": "training.threads",
}


@click.command("compare", epilog=EPILOG, context_settings={"show_default": True})
@click.option("--data", "sources", multiple=True, metavar="SOURCE", help="Text, as for `train language-model`.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for runs, bundles, results.json and comparison.png.",
)
@click.option(
    "--cells", type=Choices("rnn", "lstm", "gru"), default="rnn,lstm,gru", metavar="LIST", help="Cells to compare."
)
@click.option(
    "--connections",
    type=Choices("none", "residual", "highway", "dense"),
    default="none",
    metavar="LIST",
    help="Connections between layers to compare, each with every cell.",
)
@click.option(
    "--parameters",
    type=click.IntRange(min=1),
    help="Of each model; widths are solved for.  [default: those of an LSTM of the run's hidden_size]",
)
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Budget of each training.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Budget of each training.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, help="Trainings of each, to see what is chance.")
@THREADS
@click.option("--resume", is_flag=True, help="Go on with the comparison in --out.")
@config_options
@click.pass_context
@clear_errors
def compare(ctx: click.Context, /, **given: Any) -> None:
    """Train several architectures on a text under one budget, and say which to take.

    All have the same number of parameters. Each is trained as `train language-model` would, with the same seed, text
    and budget; its weights with the best validation perplexity are measured on the test text and published as a bundle,
    through which tokens are timed. The LSTM is recommended unless another architecture is better by more than chance,
    or a GRU is as good and faster to serve; where none learnt more than word frequencies, nothing is.
    """
    run = read_run(LanguageModelRun, ctx, given_keys(ctx, KEYS))
    if run.training.max_minutes is None and run.training.max_tokens is None:
        raise click.UsageError("give the budget of each training: --max-minutes or --max-tokens")
    use_threads(run.training.threads)
    from rich.console import Console

    from hiddenstate_exporter.comparison import comparison
    from hiddenstate_exporter.comparison.contender import make_contenders
    from hiddenstate_exporter.comparison.recommendation import recommend
    from hiddenstate_exporter.comparison.table import draw_table, make_table
    from hiddenstate_exporter.comparison.unigram import unigram_perplexity
    from hiddenstate_exporter.training.texts import read_texts

    folder = comparison.Folder(given["out"])
    folder.prepare(given["resume"])
    texts = read_texts(run.data)
    contenders = make_contenders(
        run, given["cells"], given["connections"], vocab_size=texts.vocab_size, parameters=given["parameters"]
    )
    try:
        results = comparison.compare(
            contenders,
            texts,
            folder,
            seeds=given["seeds"],
            command=command_line(ctx, parent=()),
            echo=click.echo,
        )
    except comparison.Interrupted:
        click.echo(f"what was done is kept in {folder.path}; the same command with --resume continues")
        ctx.exit(EXIT_INTERRUPTED)
    recommendation = recommend(results, unigram_perplexity(texts.train, texts.test, texts.vocab_size))
    comparison.write_results(folder.results, results, recommendation)
    draw_table(results, recommendation, folder.picture)
    Console().print(make_table(results, recommendation))
    click.echo(str(recommendation))
    click.echo(f"numbers: {folder.results}, picture: {folder.picture}, bundles: {folder.path / 'models'}")
