"""Puts a finished folder where it is served from, all of it or nothing."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hiddenstate_server.bundle import is_model_name
from hiddenstate_server.errors import BundleError, ConfigError
from hiddenstate_server.repository.files import ModelFiles
from hiddenstate_server.repository.local_source import LocalSource
from hiddenstate_server.repository.policy import POLICY_FILE, plan, version_key


class PublicationError(ValueError):
    """A bundle cannot be put where it should go; nothing was left behind."""


def next_version(folder: Path) -> str:
    """Returns the whole number after the highest that names a folder in `folder`; "1" if there is none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return str(max((int(name) for name in names if name.isascii() and name.isdigit()), default=0) + 1)


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Gives a new folder to write into, which becomes `target` (NAME/VERSION) once the block ends well.

    The folder lies beside the target under a name that no server takes for a version. If the block raises, it is
    removed, and so are parents that were made for it.

    Raises:
        PublicationError: the target exists, its name is not allowed, or it cannot be written.
    """
    check_target(target)
    made = _make_parents(target.parent)
    try:
        with _explained(target):
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
        try:
            with _explained(target):
                yield folder
                _publish(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        _remove_empty(made)


def check_name(what: str, name: str) -> None:
    """Checks a model's name or version.

    Raises:
        PublicationError: it is not allowed.
    """
    if not is_model_name(name):
        allowed = "letters, digits, '.', '_' and '-', the first a letter or digit, at most 128"
        raise PublicationError(f"{name!r} cannot be a model's {what}: use {allowed}")


def check_target(target: Path) -> None:
    """Checks that `target` (NAME/VERSION) may be made.

    Raises:
        PublicationError: it exists, or its name is not allowed.
    """
    check_name("name", target.parent.name)
    check_name("version", target.name)
    if os.path.lexists(target):
        raise PublicationError(f"{target} exists; published versions are never changed: choose another --version")
    if target.name in _beside(target).policy.labels:
        labels = f"{target.parent / POLICY_FILE} has a label of that name"
        raise PublicationError(
            f"{labels}, and servers refuse a model where a version has it too: choose another --version"
        )


def served_instead(target: Path) -> list[str]:
    """Returns the versions that servers take in place of `target` once it is there; none where they take it."""
    beside = _beside(target)
    try:
        chosen = plan(beside.policy, {*beside.versions, target.name}, "")
    except BundleError:  # of what is there, whichever version comes
        return []
    served = [*chosen.wanted, *chosen.newest_first[: chosen.enough]]
    return [] if target.name in served else sorted(served, key=version_key)


def _beside(target: Path) -> ModelFiles:
    """Returns what servers find in the folder of a model now."""
    nothing = ModelFiles(name=target.parent.name, versions={})
    try:
        return LocalSource(target.parents[1]).scan().get(target.parent.name, nothing)
    except ConfigError:  # there is no such folder yet, or who writes there will say what is wrong with it
        return nothing


def _publish(folder: Path, target: Path) -> None:
    folder.chmod(0o755)  # mkdtemp's is for its maker alone, but a server often runs as another user
    for path in [*sorted(folder.iterdir()), folder]:
        _sync(path)
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise PublicationError(f"{target} was made by somebody else meanwhile; try again") from None
        raise
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_parents(folder: Path) -> list[Path]:
    """Makes a folder and returns what was made, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise PublicationError(f"{folder}: cannot be made: {error.strerror}") from None
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty: it is used
            folder.rmdir()


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = "the disk is full; free some space and export again"
        else:
            reason = error.strerror or str(error)
        raise PublicationError(f"{target}: cannot be written: {reason}") from error
