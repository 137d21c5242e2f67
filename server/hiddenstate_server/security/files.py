"""Files that secrets are read from: whether others could read them too, and whether they have changed."""

import asyncio
import logging
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from hiddenstate_server.config import flag
from hiddenstate_server.errors import ConfigError

# A look costs one `stat` for each file. Kubernetes swaps links and network folders tell of nothing, so looking is what
# works everywhere.
_LOOK_S = 1.0
_ALL = stat.S_IRWXO

T = TypeVar("T")
Signature = tuple[tuple[int, ...] | None, ...]

_log = logging.getLogger(__name__)


def read_file(name: str, path: Path) -> bytes:
    """Reads the file of a setting.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag(name)} {path}: cannot be read: {error.strerror}") from None


def check_is_private(name: str, path: Path) -> None:
    """Checks that only the owner and the group may read a file, and only the owner write it.

    The group may: Kubernetes gives a pod its secrets that way.

    Raises:
        ConfigError: others may, or it cannot be found.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{flag(name)} {path}: cannot be read: {error.strerror}") from None
    if mode & (_ALL | stat.S_IWGRP):
        raise ConfigError(
            f"{flag(name)} {path}: its mode is {stat.S_IMODE(mode):04o}, so that others may read or change it: "
            f"chmod 600 {path}"
        )


class WatchedFiles(Generic[T]):
    """What some files hold: `value` is what they last held that was right."""

    def __init__(self, read: Callable[[], T], paths: Sequence[Path]) -> None:
        """Reads them with `read`, which raises ConfigError, as this does then."""
        self._read = read
        self._paths = paths
        self._signature = self._look()
        self.value = read()

    def refresh(self) -> bool:
        """Reads the files again if they have changed, and tells whether `value` is new. What is wrong is logged."""
        signature = self._look()
        if signature == self._signature:
            return False
        self._signature = signature
        try:
            self.value = self._read()
        except ConfigError as error:
            _log.warning("what was read before stays in force: %s", error)
            return False
        _log.info("read again, since it has changed: %s", ", ".join(map(str, self._paths)))
        return True

    def _look(self) -> Signature:
        return tuple(map(_signature, self._paths))


async def watch(files: "WatchedFiles[Any]", changed: Callable[[], object] = lambda: None) -> None:
    """Keeps files up to date until it is cancelled, and calls `changed` when they were read again."""
    while True:
        await asyncio.sleep(_LOOK_S)
        if await asyncio.to_thread(files.refresh):
            changed()


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode
