"""`hiddenstate train sentence-encoder`. Torch is imported only once the command runs, so that --help is fast."""

from pathlib import Path
from typing import Any, Final

import click

from hiddenstate_exporter.commands.config_options import config_options, given_keys, read_run
from hiddenstate_exporter.commands.device_options import DEVICE, PRECISION
from hiddenstate_exporter.commands.errors import EXIT_INTERRUPTED, clear_errors, command_line
from hiddenstate_exporter.commands.stack_options import STACK_KEYS, check_forget_bias, only_with, stack_options
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
from hiddenstate_exporter.training.sentence_encoder_config import DEFAULT_TEACHER, SentenceEncoderRun

EPILOG = """
\b
Examples:
  # from lines of text, with the teacher of `pip install 'hiddenstate[data]'`
  hiddenstate train sentence-encoder --data sentences.txt --run-dir runs/encoder
\b
  # sentences like those to be served count more; the STS Benchmark says how good the result is
  hiddenstate train sentence-encoder --data glosses.txt.xz --in-domain questions.csv:2 --text novels/ \\
      --sts sts-dev.csv --max-minutes 60 --run-dir runs/encoder
\b
  # a run from a file, with another learning rate
  hiddenstate train sentence-encoder --config run.toml --run-dir runs/hot --set optimizer.lr=0.004
\b
  # go on where Ctrl-C stopped it, or a power cut
  hiddenstate train sentence-encoder --run-dir runs/encoder --resume
"""

KEYS: Final = {
    "teacher": "distillation.teacher",
    "teacher_dtype": "distillation.teacher_dtype",
    "relational_weight": "distillation.relational_weight",
    "data": "data.sentences",
    "in_domain": "data.in_domain",
    "text": "data.text",
    "max_text_sentences": "data.max_text_sentences",
    "repeat": "data.repeat",
    "variants": "data.variants",
    "held_out": "data.held_out",
    "sts": "data.sts",
    "dimension": "model.dimension",
    **STACK_KEYS,
    "bidirectional": "model.bidirectional",
    "pooling": "model.pooling",
    "attention_heads": "model.attention_heads",
    "attention_size": "model.attention_size",
    "dropout": "regularization.dropout",
    **TRAINING_KEYS,
}


@click.command("sentence-encoder", epilog=EPILOG, context_settings={"show_default": True})
@click.option(
    "--teacher",
    default=DEFAULT_TEACHER,
    metavar="SPEC",
    help="package:NAME for an installed package that carries a sentence-transformers model, or the folder of one.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="FILE",
    help="Sentences, one a line (.txt, .txt.xz), or FILE:6,7 for columns of a tab-separated file. Repeatable.",
)
@click.option(
    "--in-domain",
    multiple=True,
    metavar="FILE",
    help="As --data, but like what will be served: these come more often, and in noisy variants. Repeatable.",
)
@click.option(
    "--text",
    multiple=True,
    metavar="SOURCE",
    help="Running text to take sentences from: a file, a folder or package:NAME. Repeatable.",
)
@click.option(
    "--max-text-sentences", type=click.IntRange(min=0), default=40_000, help="Size of the sample taken of --text."
)
@click.option(
    "--repeat", type=click.IntRange(min=1), default=3, help="Times an --in-domain sentence comes in an epoch."
)
@click.option(
    "--variants", type=click.IntRange(min=0), default=4, help="Noisy variants made of each --in-domain sentence."
)
@click.option(
    "--held-out", type=click.IntRange(min=1), default=2000, help="Sentences held out to choose the best weights by."
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for config.toml, best.pt, last.pt, log.jsonl, curves.png, tensorboard/ and the teacher's vectors.",
)
@config_options
@click.option(
    "--dimension", type=click.IntRange(min=1), help="Width of the vectors.  [default: the teacher's, the most there is]"
)
@stack_options(hidden_size=256, num_layers=1, forget_bias=None)
@click.option("--bidirectional/--unidirectional", default=True, help="Read sentences in both directions, or forwards.")
@click.option(
    "--pooling",
    type=click.Choice(["mean", "max", "last", "attention"]),
    default="mean",
    help="How a sentence's outputs become one; attention: learned weights for each word, in several ways (heads).",
)
@click.option("--attention-heads", type=click.IntRange(min=1), default=4, help="Of attention pooling.")
@click.option("--attention-size", type=click.IntRange(min=1), default=128, help="Width of attention's hidden layer.")
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    help="On embeddings, between layers and before the projection.",
)
@click.option(
    "--relational-weight",
    type=click.FloatRange(min=0),
    default=5.0,
    help="Weight of similarities within a batch beside the vectors' own direction.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=128, help="Sentences in a step.")
@LR
@SCHEDULE
@click.option("--weight-decay", type=click.FloatRange(min=0), default=0.0, help="AdamW's weight decay.")
@CLIP
@click.option("--max-epochs", type=click.IntRange(min=1), default=20, help="Passes over the sentences at most.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Time limit over all resumptions, the teacher's part not counted.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=5,
    help="Stop after so many validations in a row without a better cosine.",
)
@VALIDATIONS_PER_EPOCH
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of weights, dropout, samples and variants.")
@THREADS
@PRECISION
@DEVICE
@click.option(
    "--teacher-dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    help="What the teacher computes in; bfloat16 is faster where the CPU has it.",
)
@click.option(
    "--sts",
    type=click.Path(),
    help="A file of the STS Benchmark to measure the result (and the teacher) on; its sentences are kept out "
    "of training.",
)
@RESUME
@DATA_DESCRIPTION
@click.pass_context
@clear_errors
def sentence_encoder(ctx: click.Context, /, **given: Any) -> None:
    """Train a recurrent encoder to give the sentence vectors of a teacher model.

    The teacher's vectors are computed once and kept in RUN_DIR. Its tokenizer becomes the student's, and what it makes
    of single tokens the start of the student's embedding. The weights nearest to the teacher on held-out sentences are
    kept in RUN_DIR/best.pt. Ctrl-C ends the run and keeps them too. Nothing is downloaded.

    A run can be written down as one TOML file with the tables data, distillation, model, regularization, batches,
    optimizer, schedule and training (docs/training.md has all keys); options are laid over it. What was in force is
    kept in RUN_DIR/config.toml.
    """
    run_dir, resume = given["run_dir"], given["resume"]
    run = read_run(SentenceEncoderRun, ctx, given_keys(ctx, KEYS), resumed=run_dir if resume else None)
    check_forget_bias(ctx, run.model.cell)
    for name in ("attention_heads", "attention_size"):
        only_with(ctx, name, "pooling", "attention", chosen=run.model.pooling)
    use_threads(run.training.threads)
    from hiddenstate_exporter.training import sentence_encoder_run
    from hiddenstate_exporter.training.teacher import load_teacher

    outcome = sentence_encoder_run.run(
        run,
        load_teacher(run.distillation.teacher, run.distillation.teacher_dtype),
        run_dir,
        resume=resume,
        command=command_line(ctx, leave_out=("data_description",)),
        echo=click.echo,
    )
    if outcome.ending == "interrupted":
        ctx.exit(EXIT_INTERRUPTED)
