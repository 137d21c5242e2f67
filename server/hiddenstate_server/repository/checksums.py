"""`SHA256SUMS`, as `sha256sum * >SHA256SUMS` writes it: how a model without a bundle.json can be checked."""

import re
from pathlib import Path

from hiddenstate_server.bundle import file_checksum
from hiddenstate_server.errors import BundleError

CHECKSUM_FILE = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\]+)")


def check_files(folder: Path) -> None:
    """Holds the files of a folder against its checksums.

    Raises:
        BundleError: a file is missing or damaged, or the list cannot be read.
    """
    path = folder / CHECKSUM_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: cannot be read: {error}") from None
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise BundleError(f"{path}: {line[:80]!r} is not a SHA-256 and the name of a file beside it")
        _check(folder / match[2], match[1])


def _check(path: Path, checksum: str) -> None:
    try:
        actual = file_checksum(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}; {CHECKSUM_FILE} lists it") from None
    if actual != checksum:
        raise BundleError(
            f"{path}: SHA-256 is {actual[:12]}..., {CHECKSUM_FILE} says {checksum[:12]}...; copy the model again"
        )
