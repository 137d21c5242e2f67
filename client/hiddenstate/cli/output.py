"""How results look on a terminal."""

import json
from collections.abc import Sequence

import click


def counted(count: int, noun: str) -> str:
    """Returns a number and its noun: 1 token, 1,200 tokens."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def print_json(value: object) -> None:
    """Prints a value as one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))


def print_probabilities(rows: Sequence[tuple[str, float]]) -> None:
    """Prints words and their probabilities (0 to 1) in percent, aligned."""
    width = max(len(word) for word, _ in rows)
    for word, probability in rows:
        click.echo(f"{word:<{width}}  {probability:8.3%}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under a header, columns aligned."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
