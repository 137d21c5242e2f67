"""Reads sentences, one on a line, and says exactly where something is wrong with them."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import click


class LineError(click.ClickException):
    """A line cannot be used; the message says which and why."""


@dataclass(slots=True)
class SentenceReader:
    """Iterates over the sentences of a binary file; `bytes_read` tells how far it has come.

    A line ends at a newline only (not at the rarer separators of Unicode), so line numbers are those of an editor.
    """

    lines: Iterable[bytes]
    name: str
    skip_empty: bool = False
    bytes_read: int = 0
    skipped: int = 0

    def __iter__(self) -> Iterator[str]:
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
                yield sentence
            elif self.skip_empty:
                self.skipped += 1
            else:
                raise LineError(f"{self.name}: line {number} is empty; --skip-empty leaves such lines out")

    def _decode(self, line: bytes, number: int) -> str:
        return decode_utf8(line, f"{self.name}: line {number}", self.bytes_read).rstrip("\r\n")


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
