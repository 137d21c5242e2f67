"""Runs the server's sources where there are compiled modules too."""

import sys
from collections.abc import Sequence
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from types import ModuleType


class SourceFinder:
    """Finds the server's modules as sources only; stands before the finders that prefer compiled ones."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Returns where a module's source is; None for what is not the server's."""
        if path is None or not name.startswith("hiddenstate_server."):
            return None
        finders = (FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)) for folder in path)
        return next((spec for finder in finders if (spec := finder.find_spec(name))), None)


def prefer_sources() -> None:
    """Has this process import the server's sources from now on. Processes that it starts do as they always do."""
    sys.meta_path.insert(0, SourceFinder)
