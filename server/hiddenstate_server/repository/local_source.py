"""A model repository in a local folder."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from hiddenstate_server.bundle import is_model_name
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.repository.files import Listing, ModelFiles, Stamp, VersionFiles, model_files
from hiddenstate_server.repository.policy import POLICY_FILE


class LocalSource:
    """Reads a folder. Its methods may take as long as the disk does, so they run off the event loop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.watched: Path | None = root

    def __str__(self) -> str:
        return str(self.root)

    def scan(self) -> Listing:
        """Returns what is there.

        Raises:
            ConfigError: the folder cannot be read.
        """
        models = (self._read(folder) for folder in sorted(_folders(self.root)))
        return {model.name: model for model in models if model}

    def is_empty(self) -> bool:
        """Tells whether nothing lies there, as in a volume that is yet to be filled; hidden files aside."""
        return all(path.name.startswith(".") or path.name == "lost+found" for path in self.root.iterdir())

    def fetch(self, files: VersionFiles) -> Path:
        """Returns the folder of a version."""
        return self.root / files.path

    def retain(self, versions: Collection[VersionFiles]) -> None:
        """Is told what is served; nothing has to be done about it."""

    def _read(self, folder: Path) -> ModelFiles | None:
        try:
            files = dict(_files(folder))
            for version in _folders(folder):
                files |= {f"{version.name}/{name}": stamp for name, stamp in _files(version)}
            policy = folder / POLICY_FILE
            return model_files(folder.name, files, policy.read_bytes() if POLICY_FILE in files else None)
        except (OSError, ConfigError) as error:
            return ModelFiles(name=folder.name, versions={}, problem=error)


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir() and is_model_name(path.name)]
    except OSError as error:
        raise ConfigError(f"--models {parent}: cannot be read: {error.strerror}") from None


def _files(folder: Path) -> Iterator[tuple[str, Stamp]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                status = entry.stat()
                yield entry.name, Stamp(status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")
