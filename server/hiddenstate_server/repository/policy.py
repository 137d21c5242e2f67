"""Which versions of a model are served, and under what other names: `NAME/repository.toml`.

versions = { latest = 2 }      # or "all", or ["1", "3"]; without it the newest alone
default = "stable"             # what calls get that name no version: a label or a version; without it the newest

[labels]                       # calls may name these as a version; a labelled version is always served
stable = "2"
canary = "3"
"""

import re
from collections.abc import Collection, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec

from hiddenstate_server.bundle import is_model_name
from hiddenstate_server.errors import BundleError
from hiddenstate_server.schema import schema

POLICY_FILE = "repository.toml"


class Latest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest few."""

    latest: Annotated[int, msgspec.Meta(ge=1)] = 1


@schema
class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a `repository.toml`."""

    versions: Literal["all"] | Latest | tuple[str, ...] = Latest()
    default: str = ""
    labels: dict[str, str] = {}


class Plan(NamedTuple):
    """Which versions to load."""

    wanted: Sequence[str]  # each of them
    newest_first: Sequence[str]  # of these until `enough` could be loaded
    enough: int


def read_policy(data: bytes, where: str) -> Policy:
    """Reads a `repository.toml`; `where` names it in errors.

    Raises:
        BundleError: it is not valid; the message names the field.
    """
    try:
        policy = msgspec.toml.decode(data, type=Policy)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{where}: {error}") from None
    for label in policy.labels:
        if not is_model_name(label):
            raise BundleError(f"{where}: labels: {label[:64]!r} is not a valid name")
    return policy


def plan(policy: Policy, there: Collection[str], where: str) -> Plan:
    """Chooses among the versions that are there.

    Raises:
        BundleError: the policy names a version that is not there, or calls two versions by one name.
    """
    _check_names(policy, there, where)
    labelled = set(policy.labels.values()) | ({policy.default} & set(there))
    newest_first = sorted(there, key=version_key, reverse=True)
    if isinstance(policy.versions, Latest):
        return Plan(sorted(labelled, key=version_key), newest_first, policy.versions.latest)
    listed = there if policy.versions == "all" else policy.versions
    return Plan(sorted({*listed, *labelled}, key=version_key), (), 0)


def version_key(version: str) -> tuple[tuple[bool, int, str], ...]:
    """Orders versions as people do: 2 before 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)


def _check_names(policy: Policy, there: Collection[str], where: str) -> None:
    named = [(f"labels.{label}", version) for label, version in policy.labels.items()]
    if isinstance(policy.versions, tuple):
        named += [("versions", version) for version in policy.versions]
    if policy.default not in policy.labels and policy.default:
        named.append(("default", policy.default))
    for field, version in named:
        if version not in there:
            versions = ", ".join(sorted(there, key=version_key)) or "none"
            raise BundleError(f"{where}: {field}: there is no version {version[:64]!r}; there is: {versions}")
    for label in policy.labels:
        if label in there:
            raise BundleError(f"{where}: labels: {label!r} is the name of a version, so it cannot be a label")
