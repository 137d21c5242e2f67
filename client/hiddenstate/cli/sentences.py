"""Commands that ask a sentence encoder: encode, similarity."""

import itertools
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import click

from hiddenstate.cli.connecting import model_options, with_client
from hiddenstate.cli.lines import Line, LineError, SentenceReader, check_utf8
from hiddenstate.cli.output import counted
from hiddenstate.cli.vectors import JsonLinesWriter, NpyWriter, VectorWriter, whole_file
from hiddenstate.client import Client
from hiddenstate.errors import InvalidRequestError
from hiddenstate.sentence_errors import place

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

Format = Literal["jsonl", "npy"]

_FORMATS: dict[str, Format] = {"": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy"}  # by a file's suffix
_STANDARD_OUTPUT = Path("-")


@click.command()
@click.argument("sentences", nargs=-1)
@click.option("-f", "--file", type=click.File("rb"), help="Read sentences from this file, one on a line.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write to this file, once all is done; - is standard output.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["jsonl", "npy"]),
    help="JSON lines, or one NumPy array [n, dimension].  [default: as the output's suffix says, .jsonl, .ndjson or "
    ".npy; jsonl without one]",
)
@click.option("--skip-empty", is_flag=True, help="Leave empty lines out instead of stopping at them.")
@click.option("--truncate/--no-truncate", default=True, show_default=True, help="Cut sentences that are too long.")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Sentences of one call.")
@model_options
@with_client
def encode(
    client: Client,
    sentences: tuple[str, ...],
    file: BinaryIO | None,
    output: Path | None,
    output_format: Format | None,
    skip_empty: bool,
    truncate: bool,
    batch_size: int,
    model: str,
    model_version: str,
) -> None:
    """Turn SENTENCES into vectors. Without any, the lines of standard input (or of --file) are encoded.

    \b
    Examples:
      hiddenstate encode "A man plays a guitar." "Someone is making music."
      hiddenstate encode -f sentences.txt -o vectors.npy
      zcat corpus.gz | hiddenstate encode > vectors.jsonl
    """
    if sentences and file:
        raise click.UsageError("give sentences or --file, not both")
    destination = None if output == _STANDARD_OUTPUT else output
    written_as = output_format or _format(destination)
    reader = _reader(sentences, file, skip_empty=skip_empty)
    count = truncated = 0
    with _writer(destination, written_as) as writer, _progress(file, hidden=bool(sentences)) as bar:
        to_send, to_write = itertools.tee(reader)
        batches = client.encode_batches(
            (line.sentence for line in to_send),
            batch_size=batch_size,
            truncate=truncate,
            model=model,
            model_version=model_version,
        )
        try:
            for batch in batches:
                lines = itertools.islice(to_write, len(batch.embeddings))
                writer.write([line.sentence for line in lines], batch.embeddings)
                bar.update(reader.bytes_read - bar.pos)
                count += len(batch.embeddings)
                truncated += batch.truncated
        except InvalidRequestError as error:
            raise _of_line(error, count, to_write, reader) from error
        if not count:
            raise click.ClickException(f"{reader.name}: there are no sentences")
        writer.finish()
    _report(truncated, reader.skipped)


def _of_line(error: InvalidRequestError, count: int, left: Iterable[Line], reader: SentenceReader) -> Exception:
    """Returns the error with the line that it is about, of those `left` after `count` sentences that were written."""
    if (found := place(error)) is None:
        return error
    index, reason = found
    line = next(itertools.islice(left, index - count, None))
    return LineError(reader.place(line.number) + reason.replace("set truncate", "set --truncate"))


def _sentence(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise LineError(f"{parameter.human_readable_name} is empty; it must be a sentence")
    return check_utf8(ctx, parameter, value)


@click.command()
@click.argument("a", callback=_sentence)
@click.argument("b", callback=_sentence)
@model_options
@with_client
def similarity(client: Client, a: str, b: str, model: str, model_version: str) -> None:
    """Print how alike sentences A and B are.

    That is the cosine of their vectors: 1 for the same meaning, about 0 for nothing in common.

    \b
    Example:
      hiddenstate similarity "A man plays a guitar." "Someone is making music."
    """
    try:
        x, y = client.encode([a, b], model=model, model_version=model_version).astype("f8")  # [dimension] each
    except InvalidRequestError as error:
        raise _of_argument(error) from error
    length = float(((x @ x) * (y @ y)) ** 0.5)
    if not length:
        raise click.ClickException("the model gave a vector of length 0, which has no direction to compare")
    click.echo(f"{float(x @ y) / length:.4f}")


def _of_argument(error: InvalidRequestError) -> Exception:
    if (found := place(error)) is None:
        return error
    index, reason = found
    return LineError("AB"[index] + reason)


def _reader(sentences: tuple[str, ...], file: BinaryIO | None, *, skip_empty: bool) -> SentenceReader:
    if sentences:
        # An argument may hold a newline, and bytes that are not UTF-8 come as surrogates.
        lines = [sentence.replace("\n", " ").encode(errors="surrogateescape") for sentence in sentences]
        return SentenceReader(lines, "arguments", skip_empty=skip_empty, are_arguments=True)
    if file is not None:
        return SentenceReader(file, file.name, skip_empty=skip_empty)
    if sys.stdin.isatty():
        click.echo("Reading sentences from the terminal, one on a line, until Ctrl-D.", err=True)
    return SentenceReader(sys.stdin.buffer, "standard input", skip_empty=skip_empty)


def _format(output: Path | None) -> Format:
    """Returns the format that a file's name asks for.

    Raises:
        click.BadParameter: it asks for one that is not written.
    """
    if output is None:
        return "jsonl"
    if (wanted := _FORMATS.get(output.suffix.lower())) is None:
        raise click.BadParameter(
            f"{output.name}: {output.suffix} is not written; .jsonl and .ndjson are JSON lines, .npy is a NumPy array, "
            "and --format says which of them another name is to hold",
            param_hint="'-o' / '--output'",
        )
    return wanted


@contextmanager
def _writer(output: Path | None, output_format: Format) -> Iterator[VectorWriter]:
    is_npy = output_format == "npy"
    if is_npy and output is None:
        raise click.UsageError("--format npy needs a file to write to, for example -o vectors.npy")
    destination: AbstractContextManager[BinaryIO] = (
        nullcontext(sys.stdout.buffer) if output is None else whole_file(output)
    )
    with destination as file:
        yield NpyWriter(file) if is_npy else JsonLinesWriter(file)


def _progress(file: BinaryIO | None, *, hidden: bool) -> "ProgressBar[None]":
    """A bar on standard error, if that is a terminal; it knows the end where the input is a file of known size."""
    endless: Iterator[None] = (None for _ in ())  # click takes the length of a range, but none of this
    return click.progressbar(
        endless,
        length=None if hidden else _size(file or sys.stdin.buffer),
        label="Encoding",
        file=sys.stderr,
        hidden=hidden or not sys.stderr.isatty(),
    )


def _size(file: BinaryIO) -> int | None:
    """Returns the size of a regular file in bytes; None for a pipe or a terminal."""
    with suppress(OSError):  # standard input need not be a file at all
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            return status.st_size
    return None


def _report(truncated: int, skipped: int) -> None:
    """Says on standard error what was not encoded as it was given."""
    if truncated:
        click.echo(f"Cut at the end, being longer than the model takes: {counted(truncated, 'sentence')}.", err=True)
    if skipped:
        click.echo(f"Left out: {counted(skipped, 'empty line')}.", err=True)
