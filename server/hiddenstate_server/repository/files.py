"""What lies in a model repository: for each model its versions, known by the names and stamps of their files.

NAME/repository.toml          which versions to serve (policy.py); may be missing
NAME/VERSION/bundle.json      a bundle, or
NAME/VERSION/model.onnx       any ONNX model, or
NAME/model.onnx               the same where there is but one version, which is then called 1
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from hiddenstate_server.bundle import BUNDLE_FILE, CARD_FILE, is_model_name
from hiddenstate_server.errors import BundleError
from hiddenstate_server.repository.policy import POLICY_FILE, Policy, read_policy

ONNX_FILE = "model.onnx"
ONLY_VERSION = "1"


class Stamp(NamedTuple):
    """What differs when a file was changed."""

    size: int  # bytes
    mark: str  # a time, an inode, a checksum: whatever the storage tells


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VersionFiles:
    """The files of one version. Two that are equal hold the same."""

    name: str
    version: str
    path: str  # below the root of the repository
    files: tuple[tuple[str, Stamp], ...]  # by name; the model card is not among them

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(stamp.size for _, stamp in self.files)

    def has(self, name: str) -> bool:
        """Tells whether there is a file of that name."""
        return any(each == name for each, _ in self.files)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """What lies in the folder of one model."""

    name: str
    versions: Mapping[str, VersionFiles]
    policy: Policy = dataclasses.field(default_factory=Policy)
    problem: Exception | None = None  # why the folder as a whole cannot be used


Listing = Mapping[str, ModelFiles]
"""All models by name."""


def model_files(name: str, files: Mapping[str, Stamp], policy: bytes | None) -> ModelFiles | None:
    """Makes sense of the files below `NAME/`, given by their paths; None if there is no model among them."""
    by_folder: dict[str, dict[str, Stamp]] = {}
    for path, stamp in files.items():
        folder, _, file = path.rpartition("/")
        if file != CARD_FILE and (not folder or is_model_name(folder)):
            by_folder.setdefault(folder, {})[file] = stamp
    own = by_folder.pop("", {})
    own.pop(POLICY_FILE, None)
    versions = {version: _version(name, version, f"{name}/{version}", held) for version, held in by_folder.items()}
    if ONNX_FILE in own:
        rivals = [version for version, held in by_folder.items() if ONNX_FILE in held or BUNDLE_FILE in held]
        if rivals:
            return ModelFiles(name=name, versions={}, problem=_two_models(name, rivals[0]))
        versions = {ONLY_VERSION: _version(name, ONLY_VERSION, name, own)}
    if not versions:
        return None
    try:
        return ModelFiles(name=name, versions=versions, policy=_policy(name, policy))
    except BundleError as error:
        return ModelFiles(name=name, versions=versions, problem=error)


def _version(name: str, version: str, path: str, files: Mapping[str, Stamp]) -> VersionFiles:
    return VersionFiles(name=name, version=version, path=path, files=tuple(sorted(files.items())))


def _policy(name: str, data: bytes | None) -> Policy:
    return Policy() if data is None else read_policy(data, f"{name}/{POLICY_FILE}")


def _two_models(name: str, version: str) -> BundleError:
    return BundleError(
        f"{name}: has both {ONNX_FILE} and {version}/, which are two models of one name; "
        f"move {ONNX_FILE} into a version folder of its own"
    )
