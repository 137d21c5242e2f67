"""The teacher's vectors of all training sentences: computed once, kept in the run folder."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from hiddenstate_exporter.training.teacher import Teacher, TeacherError
from hiddenstate_exporter.training.whole_file import whole_file

CHUNK = 2048  # sentences given to the teacher at once
SAVE_EVERY = 16  # chunks; what a power cut can cost


def teacher_vectors(
    teacher: Teacher, sentences: Sequence[str], folder: Path, console: Console | None = None
) -> NDArray[np.float16]:
    """Returns the teacher's vectors [sentences, dimension], asking it only for sentences it has not seen before.

    They are kept in `folder`, in a file named by the teacher's checksum: change the data and only new sentences are
    computed; change the teacher and all are.

    Raises:
        TeacherError: the file cannot be read or written.
    """
    cache = _Cache(folder / f"teacher-{teacher.checksum[:12]}.npz", teacher.dimension)
    keys = [_key(sentence) for sentence in sentences]
    unknown = {key: sentence for key, sentence in zip(keys, sentences, strict=True) if key not in cache}
    with Progress(
        *Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task(f"vectors of {teacher.name}", total=len(unknown))
        try:
            for number, chunk in enumerate(_chunks(unknown), start=1):
                cache.add(chunk, teacher.embed([unknown[key] for key in chunk]))
                bar.advance(task, len(chunk))
                if number % SAVE_EVERY == 0:
                    cache.save()
        finally:  # Ctrl-C included: what is computed need not be computed again
            cache.save()
    return cache.vectors(keys)


class _Cache:
    """Vectors by sentence key, in memory and in one file."""

    def __init__(self, path: Path, dimension: int) -> None:
        self._path = path
        self._rows: dict[int, int] = {}
        self._saved = 0  # how many of them are in the file
        self._vectors = [np.zeros((0, dimension), np.float16)]
        if path.exists():
            self._load()

    def __contains__(self, key: int) -> bool:
        return key in self._rows

    def add(self, keys: Sequence[int], vectors: NDArray[np.float32]) -> None:
        start = len(self._rows)
        self._rows.update((key, start + i) for i, key in enumerate(keys))
        self._vectors.append(vectors.astype(np.float16))

    def vectors(self, keys: Sequence[int]) -> NDArray[np.float16]:
        rows = np.fromiter((self._rows[key] for key in keys), np.int64, len(keys))
        return np.concatenate(self._vectors)[rows]

    def save(self) -> None:
        """Writes what has been added since the file was read."""
        if len(self._rows) == self._saved:
            return
        self._vectors = [np.concatenate(self._vectors)]
        keys = np.fromiter(self._rows, np.uint64, len(self._rows))
        try:
            with whole_file(self._path) as file:
                np.savez(file, keys=keys, vectors=self._vectors[0])
            self._saved = len(self._rows)
        except OSError as error:
            raise TeacherError(f"{self._path}: the teacher's vectors cannot be kept: {error.strerror}") from None

    def _load(self) -> None:
        try:
            with np.load(self._path) as content:
                keys, vectors = content["keys"], content["vectors"]
                if vectors.shape != (len(keys), self._vectors[0].shape[1]):
                    raise ValueError(f"{len(keys)} keys with vectors of shape {vectors.shape}")
        except Exception as error:  # zip, pickle, key or OS errors
            raise TeacherError(f"{self._path}: is damaged ({error}); delete it to compute it anew") from error
        self.add([int(key) for key in keys], vectors)
        self._saved = len(self._rows)


def _key(sentence: str) -> int:
    return int.from_bytes(hashlib.blake2b(sentence.encode(), digest_size=8).digest(), "little")


def _chunks(sentences: dict[int, str]) -> Iterator[list[int]]:
    """Yields keys in chunks of like length, so that the teacher pads little."""
    ordered = sorted(sentences, key=lambda key: len(sentences[key]))
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]
