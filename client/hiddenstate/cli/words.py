"""Commands that ask a language model: predict, generate, score."""

import dataclasses
import sys
from collections.abc import Sequence

import click

from hiddenstate.cli.connecting import model_options, with_client
from hiddenstate.cli.lines import check_utf8, decode_utf8
from hiddenstate.cli.output import counted, print_json, print_probabilities
from hiddenstate.client import Client
from hiddenstate.generation import Generation
from hiddenstate.results import Candidate, GeneratedWord, TokenScore
from hiddenstate.text import join_words, write_words


def _read_text(ctx: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> str:
    """Joins the words of a command line; `-` alone reads standard input."""
    if words == ("-",):
        return decode_utf8(sys.stdin.buffer.read(), "standard input").rstrip("\r\n")
    return check_utf8(ctx, parameter, " ".join(words))


_text_argument = click.argument("text", nargs=-1, required=True, callback=_read_text)
_json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


@click.command()
@_text_argument
@click.option("-k", "--top-k", type=int, default=5, show_default=True, help="How many words to answer.")
@click.option("--prefix", default="", callback=check_utf8, help="Only words that begin with these letters.")
@_json_option
@model_options
@with_client
def predict(client: Client, text: str, top_k: int, prefix: str, as_json: bool, model: str, model_version: str) -> None:
    """Print the likeliest next words after TEXT.

    A TEXT of - is read from standard input, and "" asks for a text's first word.

    \b
    Examples:
      hiddenstate predict "I would like to thank"
      hiddenstate predict "I would like to thank" --top-k 3 --json
      hiddenstate predict "I would like to" --prefix th
    """
    prediction = client.predict(text, top_k=top_k, prefix=prefix, model=model, model_version=model_version)
    if as_json:
        print_json(
            {
                "candidates": [_as_json(candidate) for candidate in prediction.candidates],
                "model": prediction.model,
                "model_version": prediction.model_version,
                "usage": dataclasses.asdict(prediction.usage),
            }
        )
    elif prediction.candidates:
        print_probabilities([(candidate.word, candidate.probability) for candidate in prediction.candidates])
    else:
        click.echo(f"No word of {prediction.model} begins with {prefix!r}.", err=True)


@click.command()
@_text_argument
@click.option("-n", "--max-tokens", type=int, default=50, show_default=True, help="The most words to write.")
@click.option(
    "-t", "--temperature", type=float, default=1.0, show_default=True, help="0 always takes the likeliest word."
)
@click.option("-k", "--top-k", type=int, help="Choose among this many likeliest words only.")
@click.option("-p", "--top-p", type=float, help="Choose among the likeliest words that hold this much probability.")
@click.option("--seed", type=int, help="The same seed gives the same text.  [default: drawn]")
@click.option("--stop", "stop_words", multiple=True, metavar="WORD", help="End after this word; may be repeated.")
@_json_option
@model_options
@with_client
def generate(
    client: Client,
    text: str,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    stop_words: Sequence[str],
    as_json: bool,
    model: str,
    model_version: str,
) -> None:
    """Print TEXT and go on writing it.

    A TEXT of - is read from standard input, and "" begins a text.

    \b
    Examples:
      hiddenstate generate "The history of the"
      hiddenstate generate "The history of the" --temperature 0.7 --seed 1 --stop .
    """
    generation = client.generate(
        text,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_words=stop_words,
        model=model,
        model_version=model_version,
    )
    with generation:
        if as_json:
            _print_generation_json(generation, text)
        else:
            _print_generation(generation, text)


@click.command()
@_text_argument
@_json_option
@model_options
@with_client
def score(client: Client, text: str, as_json: bool, model: str, model_version: str) -> None:
    """Print how likely each word of TEXT is. A TEXT of - is read from standard input.

    \b
    Example:
      hiddenstate score "I would like to thank you."
    """
    result = client.score(text, model=model, model_version=model_version)
    if as_json:
        print_json(dataclasses.asdict(result) | {"tokens": [_as_json(token) for token in result.tokens]})
        return
    print_probabilities([(token.token, token.probability) for token in result.tokens])
    count = counted(len(result.tokens), "token")
    click.echo(f"\nperplexity {result.perplexity:.2f}, log probability {result.log_prob:.2f}, {count}")


def _print_generation(generation: Generation, text: str) -> None:
    first = next(generation, None)  # waited for before anything is printed: an error should stand alone
    click.echo(text, nl=False)
    words = [] if first is None else [first]
    for piece in write_words((word.word for source in (words, generation) for word in source), after=text):
        click.echo(piece, nl=False)
        sys.stdout.flush()
    click.echo()


def _print_generation_json(generation: Generation, text: str) -> None:
    words = list(generation)
    print_json(
        {
            "text": join_words((word.word for word in words), after=text),
            "words": [_as_json(word) for word in words],
            "finish_reason": generation.finish_reason,
            "seed": generation.seed,
            "usage": None if generation.usage is None else dataclasses.asdict(generation.usage),
        }
    )


def _as_json(word: Candidate | GeneratedWord | TokenScore) -> dict[str, object]:
    fields = dataclasses.asdict(word)
    return fields | {"log_prob": round(word.log_prob, 6), "probability": round(word.probability, 9)}
