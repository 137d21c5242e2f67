"""Writes vectors as they come, as JSON lines or as one NumPy array."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class VectorWriter(Protocol):
    """Where vectors go."""

    def write(self, sentences: Sequence[str], embeddings: "NDArray[np.float32]") -> None:
        """Writes the vectors of some sentences: float32 [batch, dimension]."""

    def finish(self) -> None:
        """Writes what can only be written at the end."""


class JsonLinesWriter:
    """One object on a line: {"text": the sentence, "embedding": its vector}."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, sentences: Sequence[str], embeddings: "NDArray[np.float32]") -> None:
        # Nine digits are enough to get the same float32 back; json would write the seventeen of a double.
        vector = "[" + ", ".join(["%.9g"] * embeddings.shape[1]) + "]"
        for sentence, embedding in zip(sentences, embeddings.tolist(), strict=True):
            text = json.dumps(sentence, ensure_ascii=False)
            self._file.write(f'{{"text": {text}, "embedding": {vector % tuple(embedding)}}}\n'.encode())
        self._file.flush()

    def finish(self) -> None:
        """Nothing is left to write."""


class NpyWriter:
    """One float32 array [n, dimension] in NumPy's .npy format, as `numpy.load` reads it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._count = 0
        self._dimension = 0

    def write(self, sentences: Sequence[str], embeddings: "NDArray[np.float32]") -> None:
        if not self._count:
            self._dimension = embeddings.shape[1]
            self._write_header()
        self._file.write(embeddings.astype("<f4").tobytes())
        self._count += len(sentences)

    def finish(self) -> None:
        """Writes the number of vectors into the header, which numpy pads so that it keeps its length."""
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        import numpy as np

        shape = (self._count, self._dimension)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that appears at `path` only once all of it is written: no half of it can be mistaken for all.

    Raises:
        OSError: the file cannot be written.
    """
    if path.exists() and not path.is_file():  # a device or a pipe: there is nothing to replace
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        error.filename = error.filename and str(path)  # the other name means nothing to anybody else
        raise
    finally:
        part.unlink(missing_ok=True)
