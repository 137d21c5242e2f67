"""Text files that are always whole, whenever a run is killed or the disk is full."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a text file: beside it first, then renamed over it.

    Raises:
        OSError: it cannot be written; what was there before is left.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
