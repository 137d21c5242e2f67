"""Reads sentences, one on a line, and says exactly where something is wrong with them."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import click


class LineError(click.ClickException):
    """A line cannot be used; the message says which and why."""


class Line(NamedTuple):
    """A sentence, and where it stands."""

    number: int  # from 1, with the lines that were left out
    sentence: str


@dataclass(slots=True)
class SentenceReader:
    """Iterates over the sentences of a binary file, or over arguments; `bytes_read` tells how far it has come.

    A line ends at a newline only (not at the rarer separators of Unicode), so line numbers are those of an editor.
    """

    lines: Iterable[bytes]
    name: str
    skip_empty: bool = False
    are_arguments: bool = False
    bytes_read: int = 0
    skipped: int = 0

    def __iter__(self) -> Iterator[Line]:
        """Yields one sentence after the other.

        Raises:
            LineError: a line is not UTF-8, or is empty and empty ones are not to be skipped.
        """
        for number, line in enumerate(self.lines, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            sentence = self._decode(line, number)
            self.bytes_read += len(line)
            if sentence.strip():
                yield Line(number, sentence)
            elif self.skip_empty:
                self.skipped += 1
            else:
                raise LineError(f"{self.place(number)} is empty; --skip-empty leaves out what is empty")

    def place(self, number: int) -> str:
        """Names a line, or an argument, by its number."""
        return f"argument {number}" if self.are_arguments else f"{self.name}: line {number}"

    def _decode(self, line: bytes, number: int) -> str:
        offset = 0 if self.are_arguments else self.bytes_read
        return decode_utf8(line, self.place(number), offset).rstrip("\r\n")


def decode_utf8(data: bytes, name: str, offset: int = 0) -> str:
    """Decodes bytes that begin `offset` bytes into what `name` names.

    Raises:
        LineError: they are not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        byte, offset = data[error.start], offset + error.start
        raise LineError(f"{name} is not UTF-8 (byte 0x{byte:02x} at offset {offset})") from None


def check_utf8(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuses a word of the command line whose bytes were not UTF-8: Python reads those as lone surrogates.

    Raises:
        LineError: it holds such a byte.
    """
    name = parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.human_readable_name
    return decode_utf8(value.encode(errors="surrogateescape"), name)
