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
        try:
            return line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            offset = self.bytes_read + error.start
            raise LineError(
                f"{self.name}: line {number} is not UTF-8 (byte 0x{line[error.start]:02x} at offset {offset})"
            ) from None
