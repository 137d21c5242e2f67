"""What each version in a repository is doing."""

from collections.abc import Collection, Iterator, Mapping
from typing import Literal, NamedTuple

from hiddenstate_server.repository.files import Listing
from hiddenstate_server.repository.loads import ModelState
from hiddenstate_server.repository.version import Version

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


class IndexEntry(NamedTuple):
    """What one version is doing."""

    name: str
    version: str  # empty where the folder of the model cannot be read at all
    state: State
    reason: str  # why it is not served, or why what lies there now is not


def index(
    listing: Listing,
    *,
    unloaded: Collection[str],
    ending: Collection[Version],
    loading: Collection[tuple[str, str]],
    states: Mapping[str, ModelState],
    problem: str = "",
) -> list[IndexEntry]:
    """Returns one entry for each version, by name and version.

    Takes what lies in the source, the models that calls have unloaded, the versions that were replaced, those that are
    being loaded, what is served or refused, and why the source cannot be read, if so.
    """
    entries = [*_lying(listing, unloaded), *_passing(ending, loading)]
    for name, state in states.items():
        entries += _known(name, state, problem)
    by_version = {(entry.name, entry.version): entry for entry in entries}  # what comes later counts more
    return [by_version[key] for key in sorted(by_version)]


def _lying(listing: Listing, unloaded: Collection[str]) -> Iterator[IndexEntry]:
    for name, model in listing.items():
        reason = "unloaded by a call" if name in unloaded else "not among the versions that its policy serves"
        yield from (IndexEntry(name, version, "UNAVAILABLE", reason) for version in model.versions)


def _passing(ending: Collection[Version], loading: Collection[tuple[str, str]]) -> Iterator[IndexEntry]:
    for version in ending:
        yield IndexEntry(version.name, version.version, "UNLOADING", "finishes the work that it has")
    for name, loaded in loading:
        yield IndexEntry(name, loaded, "LOADING", "")


def _known(name: str, state: ModelState, problem: str) -> Iterator[IndexEntry]:
    for version, failure in state.failures.items():
        yield IndexEntry(name, version, "UNAVAILABLE", failure.told)
    for version in state.versions:
        newer = state.failures.get(version)
        reason = f"goes on as it was loaded: {problem}" if problem else ""
        yield IndexEntry(name, version, "READY", f"what lies there now is refused: {newer.told}" if newer else reason)
