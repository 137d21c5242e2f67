"""Where models come from."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from hiddenstate_server.errors import ConfigError
from hiddenstate_server.repository.files import Listing, VersionFiles
from hiddenstate_server.repository.local_source import LocalSource

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}


class Source(Protocol):
    """A place with models. Its methods block, so they run off the event loop."""

    @property
    def watched(self) -> Path | None:
        """The folder whose changes the operating system tells; None if it has to be asked now and then."""

    def scan(self) -> Listing:
        """Returns what is there.

        Raises:
            ConfigError: it cannot be read.
        """

    def is_empty(self) -> bool:
        """Tells whether it is there and holds nothing at all."""

    def fetch(self, files: VersionFiles) -> Path:
        """Returns a local folder with just these files.

        Raises:
            NoRoomError: the disk has no room for them.
            OSError: they cannot be read, or not be kept.
        """

    def retain(self, versions: Collection[VersionFiles]) -> None:
        """Is told which versions are in use; the rest need not be kept."""


def open_source(models: Path | str, cache: Path) -> Source:
    """Opens a folder, or what a URL names.

    Raises:
        ConfigError: nothing can read such a URL.
    """
    if "://" not in str(models):
        return LocalSource(Path(models))
    try:
        from hiddenstate_server.repository.object_store import ObjectStore  # loads fsspec, which few need

        return ObjectStore(str(models), cache)
    except ImportError:
        raise ConfigError(f"--models {models}: {_what_to_install(str(models))}") from None
    except ValueError as error:
        raise ConfigError(f"--models {models}: {error}") from None


def _what_to_install(url: str) -> str:
    scheme = url.partition("://")[0]
    if scheme not in _EXTRAS:
        return f"needs a library for {scheme}:// that fsspec knows"
    return (
        f"needs another library: pip install 'hiddenstate[{_EXTRAS[scheme]}]', or in a checkout '.[{_EXTRAS[scheme]}]'"
    )
