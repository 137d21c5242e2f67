"""Brings one model up to date: what its folder holds, against what is served of it. Runs off the event loop."""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import BundleError, ConfigError, ModelMemoryError, NoRoomError
from hiddenstate_server.model_metrics import FailureReason, ModelMetrics
from hiddenstate_server.repository import quarantine
from hiddenstate_server.repository.catalog import Names
from hiddenstate_server.repository.files import ONNX_FILE, ModelFiles, VersionFiles
from hiddenstate_server.repository.loader import Loader, Served
from hiddenstate_server.repository.memory import MemoryBudget
from hiddenstate_server.repository.policy import POLICY_FILE, Policy, plan
from hiddenstate_server.repository.source import Source
from hiddenstate_server.repository.version import Version


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Failure:
    """Why a version is not served as it lies there."""

    files: VersionFiles | None  # None for a problem of the folder as a whole
    error: Exception
    places: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of this machine, and what callers call them

    @property
    def reason(self) -> str:
        """In words for operators. What nobody foresaw is in the log alone."""
        if isinstance(self.error, BundleError | ConfigError | ModelMemoryError | NoRoomError):
            return str(self.error)
        if isinstance(self.error, OSError):
            where = f"{self.error.filename}: " if self.error.filename else ""
            return f"{where}cannot be read: {self.error.strerror or self.error}"
        return "could not be loaded; the server's log has the reason"

    @property
    def told(self) -> str:
        """The reason in words for callers, who are not to learn where on this machine the files lie."""
        reason = self.reason
        for place, name in self.places.items():
            reason = reason.replace(place, name)
        return reason

    @property
    def kind(self) -> FailureReason:
        """What metrics call it."""
        if isinstance(self.error, ModelMemoryError):
            return "memory"
        if isinstance(self.error, NoRoomError):
            return "disk_full"
        if isinstance(self.error, BundleError):
            return "damaged"
        return "unreadable" if isinstance(self.error, OSError | ConfigError) else "failed"

    @property
    def may_pass(self) -> bool:
        """Whether trying again may help while the files stay as they are."""
        return isinstance(self.error, OSError | ModelMemoryError)


@dataclasses.dataclass(slots=True)
class ModelState:
    """What there is of one model. Owned by the repository; replaced, never changed, while it is being served."""

    versions: Mapping[str, Version] = dataclasses.field(default_factory=dict)
    names: Names = dataclasses.field(default_factory=lambda: Names({}, ""))
    failures: Mapping[str, Failure] = dataclasses.field(default_factory=dict)  # by version; "" for the whole folder


class Loads:
    """Loads what a policy asks for, and keeps count."""

    def __init__(
        self, source: Source, loader: Loader, budget: MemoryBudget, metrics: ModelMetrics, settings: EngineSettings
    ) -> None:
        self.running: dict[tuple[str, str], None] = {}  # what is being loaded; read on the event loop
        self.is_serving = False  # whether a model that ends the process would take callers with it
        self._source = source
        self._loader = loader
        self._budget = budget
        self._metrics = metrics
        self._settings = settings

    def update(self, model: ModelFiles, now: ModelState, *, again: bool = False) -> ModelState:
        """Returns what is to be served from now on; `again` tries what failed before, even if it has not changed.

        While anything fails, no version that is served is taken away.
        """
        try:
            if model.problem:
                raise model.problem
            chosen = plan(model.policy, model.versions, f"{model.name}/{POLICY_FILE}")
        except (BundleError, ConfigError, OSError) as error:
            return _refused(now, Failure(None, error, {str(self._source): "the repository"}))
        pass_ = _Pass(self._load, model, now, again)
        pass_.take(chosen.wanted)
        pass_.take_some(chosen.newest_first, chosen.enough)
        kept = now.versions if pass_.failures and pass_.short_of(chosen.enough) else {}
        versions = {**kept, **pass_.versions}
        names = _names(model.policy, versions, now.names, pass_.failures)
        return ModelState(versions=versions, names=names, failures=pass_.failures)

    def _load(self, files: VersionFiles) -> Version | Failure:
        key = (files.name, files.version)
        self.running[key] = None
        started_at = time.monotonic()
        places = {str(self._source): "the repository"}
        try:
            claim = self._budget.claim(files)
            try:
                folder = self._source.fetch(files)
                places = {str(folder): f"{files.name}/{files.version}", **places}
                version = Version(self._try_and_load(files, folder), files, claim)
            except BaseException:
                self._budget.release(claim)
                raise
        except Exception as error:  # whatever a folder holds must not end what is served
            return Failure(files, error, places)
        finally:
            self.running.pop(key, None)
        self._metrics.loaded(*key, seconds=time.monotonic() - started_at)
        return version

    def _try_and_load(self, files: VersionFiles, folder: Path) -> Served:
        """Tries apart first what others made, and whatever comes while callers are served."""
        if self._settings.trial_timeout_s and (self.is_serving or files.has(ONNX_FILE)):
            quarantine.check(files, folder, self._settings)
        return self._loader.load(files, folder)


class _Pass:
    """What came of one look at a model."""

    def __init__(
        self, load: Callable[[VersionFiles], Version | Failure], model: ModelFiles, now: ModelState, again: bool
    ) -> None:
        self.versions: dict[str, Version] = {}
        self.failures: dict[str, Failure] = {}
        self._load = load
        self._files = model.versions
        self._now = now
        self._again = again
        self._listed_failed = False

    def take(self, versions: Collection[str]) -> None:
        """Takes all of these."""
        for version in versions:
            self._take(version)
        self._listed_failed = bool(self.failures)

    def take_some(self, versions: Collection[str], enough: int) -> None:
        """Takes these in order until so many of them are there."""
        taken = 0
        for version in versions:
            if taken == enough:
                break
            self._take(version)
            taken += version in self.versions

    def short_of(self, enough: int) -> bool:
        """Tells whether fewer are there than should be."""
        return self._listed_failed or len(self.versions) < enough

    def _take(self, version: str) -> None:
        if version in self.versions or version in self.failures:
            return
        files, served, failed = self._files[version], self._now.versions.get(version), self._now.failures.get(version)
        result: Version | Failure
        if served and served.files == files:
            result = served
        elif failed and failed.files == files and not (self._again or failed.may_pass):
            result = failed
        else:
            result = self._load(files)
        if isinstance(result, Version):
            self.versions[version] = result
        else:
            self.failures[version] = result
            if served:  # a newer copy of a version that is served
                self.versions[version] = served


def _refused(now: ModelState, failure: Failure) -> ModelState:
    before = now.failures.get("")
    if before and before.reason == failure.reason:
        failure = before
    return ModelState(versions=now.versions, names=now.names, failures={"": failure})


def _names(policy: Policy, versions: Mapping[str, Version], before: Names, failures: Mapping[str, Failure]) -> Names:
    """Resolves labels; one whose version cannot be served stays where it was."""
    labels, missing = {}, {}
    for label, version in policy.labels.items():
        if version in versions:
            labels[label] = version
            continue
        missing[label] = f"version {version} {failures[version].told}" if version in failures else version
        if before.labels.get(label) in versions:
            labels[label] = before.labels[label]
    default = labels.get(policy.default, policy.default)
    if default and default not in versions:
        default = before.default if before.default in versions else ""
        missing |= {} if default else {"": f"{POLICY_FILE} has {policy.default!r} for that, which is not served"}
    return Names(labels, default, missing)
