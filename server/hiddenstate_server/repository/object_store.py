"""A model repository in an object store, and a local folder in which its models are kept.

What is listed is known by size and by the store's own mark (an ETag, a generation, a time). A version is downloaded
into a folder of its own, checked, and renamed into place with the SHA-256 of each file: so there are whole versions or
none. Each use checks them again. Several processes may share the folder.
"""

import base64
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import msgspec

from hiddenstate_server.bundle import file_checksum, is_model_name
from hiddenstate_server.errors import ConfigError, NoRoomError
from hiddenstate_server.repository.files import Listing, ModelFiles, Stamp, VersionFiles, model_files
from hiddenstate_server.repository.policy import POLICY_FILE

_CHECKSUMS = "checksums.json"
# What stores call that which changes with a file, best first.
_MARKS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "crc32c",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)
# What a disk says that is full: no space, a quota, a limit on the size of files.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Versions that nobody here uses: another process may be about to.
_KEEP_UNUSED_S = 3600.0

_log = logging.getLogger(__name__)


class ObjectStore:
    """Reads a folder of a store that fsspec knows. Its methods block, so they run off the event loop."""

    watched: Path | None = None  # no store tells of changes

    def __init__(self, url: str, cache: Path) -> None:
        """Touches neither the store nor the disk.

        Raises:
            ImportError: the library for this kind of store is not installed.
            ValueError: there is no such kind of store.
        """
        self._url = url.rstrip("/")
        self._store, self._root = _open(self._url)
        self._cache = cache.expanduser() / hashlib.sha256(self._url.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return self._url

    def scan(self) -> Listing:
        """Returns what is there.

        Raises:
            ConfigError: the store cannot be read.
        """
        try:
            self._store.invalidate_cache()
            found = self._store.find(self._root, maxdepth=3, detail=True)
        except Exception as error:  # each store has errors of its own
            raise ConfigError(f"--models {self._url}: cannot be read: {_text(error)}") from None
        models = (self._read(name, files) for name, files in sorted(self._by_model(found).items()))
        return {model.name: model for model in models if model}

    def is_empty(self) -> bool:
        """Tells no: a place without objects is not there, so one that was misspelt looks the same."""
        return False

    def fetch(self, files: VersionFiles) -> Path:
        """Returns a local folder with these files, which it downloads unless it has them.

        Raises:
            NoRoomError: the disk is full; nothing is left of what was downloaded.
            OSError: they cannot be read, have changed meanwhile, arrive damaged, or cannot be kept.
        """
        place = self._place(files)
        try:
            with self._alone(place.name):
                if not _is_whole(place):
                    shutil.rmtree(place, ignore_errors=True)
                    self._download(files, place)
                os.utime(place)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise NoRoomError(
                f"--models-cache {self._cache.parent}: has no room for the {files.size:,} bytes of {files.path} "
                f"({os.strerror(error.errno)}): free some, or name a folder on another disk"
            ) from None
        return place / "files"

    def retain(self, versions: Collection[VersionFiles]) -> None:
        """Deletes what nobody has used for an hour and is not among these."""
        used = {self._place(files).name for files in versions}
        with contextlib.suppress(OSError):  # another process is deleting as well, or there is nothing yet
            for place in self._cache.iterdir():
                if place.name not in used and time.time() - place.stat().st_mtime > _KEEP_UNUSED_S:
                    _log.info("deleting %s, which is not served any more", place)
                    shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink()

    def _by_model(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Stamp]]:
        """Sorts files by the model that they belong to; names that no folder here could have are left out."""
        models: dict[str, dict[str, Stamp]] = {}
        for path, info in found.items():
            name, _, rest = path.removeprefix(self._root).strip("/").partition("/")
            parts = rest.split("/")
            if info.get("type") == "file" and len(parts) <= 2 and all(map(is_model_name, (name, *parts))):
                models.setdefault(name, {})[rest] = _stamp(info)
        return models

    def _read(self, name: str, files: Mapping[str, Stamp]) -> ModelFiles | None:
        try:
            policy = self._store.cat_file(f"{self._root}/{name}/{POLICY_FILE}") if POLICY_FILE in files else None
        except Exception as error:
            return ModelFiles(name=name, versions={}, problem=OSError(f"{name}/{POLICY_FILE}: {_text(error)}"))
        return model_files(name, files, policy)

    def _place(self, files: VersionFiles) -> Path:
        digest = hashlib.sha256(msgspec.json.encode([files.path, files.files])).hexdigest()
        return self._cache / f"{files.name}-{files.version}-{digest[:32]}"

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Lets one process after the other work on a version."""
        self._cache.mkdir(parents=True, exist_ok=True)
        with (self._cache / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _download(self, files: VersionFiles, place: Path) -> None:
        if shutil.disk_usage(self._cache).free < files.size:  # else each look would download what cannot be kept
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=self._cache))
        try:
            folder = partial / "files"
            folder.mkdir()
            checksums = self._fill(folder, files)
            (partial / _CHECKSUMS).write_bytes(msgspec.json.encode(checksums))
            _sync(partial)
            partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _log.info("downloaded %s/%s: %d bytes", self._url, files.path, files.size)

    def _fill(self, folder: Path, files: VersionFiles) -> dict[str, str]:
        """Downloads files and returns the SHA-256 of each."""
        root = f"{self._root}/{files.path}"
        try:
            for name, _ in files.files:
                self._store.get_file(f"{root}/{name}", str(folder / name))
            self._store.invalidate_cache()
            found = self._store.find(root, maxdepth=1, detail=True)
        except Exception as error:  # each store has errors of its own
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            raise OSError(f"{self._url}/{files.path}: cannot be downloaded: {_text(error)}") from None
        infos = {path.rpartition("/")[2]: info for path, info in found.items()}
        for name, stamp in files.files:
            _check_download(folder / name, stamp, infos.get(name, {}))
        return {name: file_checksum(folder / name) for name, _ in files.files}


def _check_download(path: Path, stamp: Stamp, info: Mapping[str, Any]) -> None:
    if _stamp(info) != stamp:
        raise OSError(f"{path.name}: was changed while it was downloaded; it is tried again")
    if (arrived := path.stat().st_size) != stamp.size:
        raise OSError(f"{path.name}: {arrived:,} bytes of {stamp.size:,} arrived; it is tried again")
    if (told := _md5(info)) and told != _md5_of(path):
        raise OSError(f"{path.name}: what arrived has not the MD5 that the store tells; it is tried again")


def _open(url: str) -> tuple[Any, str]:
    store, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return store, root.rstrip("/")


def _stamp(info: Mapping[str, Any]) -> Stamp:
    mark = next((str(info[mark]) for mark in _MARKS if info.get(mark)), "")
    return Stamp(int(info.get("size") or 0), mark.strip('"'))


def _md5(info: Mapping[str, Any]) -> str:
    """Returns a file's MD5 in hex; empty where the store does not tell it. An ETag of S3 is one only sometimes."""
    told = info.get("md5Hash") or (info.get("content_settings") or {}).get("content_md5") or b""
    return (base64.b64decode(told) if isinstance(told, str) else bytes(told)).hex()


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is_whole(place: Path) -> bool:
    """Tells whether a version lies there as it was downloaded."""
    try:
        checksums = msgspec.json.decode((place / _CHECKSUMS).read_bytes(), type=dict[str, str])
        damaged = [name for name, checksum in checksums.items() if file_checksum(place / "files" / name) != checksum]
    except FileNotFoundError:
        return False
    except (OSError, msgspec.MsgspecError) as error:
        damaged = [str(error)]
    if damaged:
        _log.warning("%s is damaged (%s): downloading it again", place, ", ".join(damaged))
    return not damaged


def _sync(folder: Path) -> None:
    """Has a folder's files on the disk before it gets its name."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
