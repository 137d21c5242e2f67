"""Files that are always whole, whenever a run is killed or the disk is full."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Gives a file to write into, which lies beside `path` and takes its place once the block ends well.

    Raises:
        OSError: it cannot be written; what was there before is left.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is there only if something failed
            beside.unlink()


def write_whole(path: Path, text: str) -> None:
    """Writes a text file; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode())
