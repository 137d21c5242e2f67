"""The models that a server has: finds them for calls, and changes them while calls go on."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import (
    BundleError,
    ConfigError,
    ModelLoadError,
    ModelMemoryError,
    ModelNotFoundError,
    UnsupportedError,
)
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.layout import available_cores
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.prefix_cache import PrefixCache
from hiddenstate_server.repository.catalog import Catalog
from hiddenstate_server.repository.files import Listing, ModelFiles, VersionFiles
from hiddenstate_server.repository.index import IndexEntry, index
from hiddenstate_server.repository.loader import Loader, Served, describe
from hiddenstate_server.repository.loads import Failure, Loads, ModelState
from hiddenstate_server.repository.local_source import LocalSource
from hiddenstate_server.repository.memory import MemoryBudget
from hiddenstate_server.repository.source import Source
from hiddenstate_server.repository.version import Version
from hiddenstate_server.scheduler import Scheduler
from hiddenstate_server.sentence_encoder import SentenceEncoder

Listener = Callable[[str, bool], None]

# What listeners are told of the source by. It is no model's name: those have a folder.
SOURCE_NAME = "hiddenstate.repository"

# Models that are loaded at a time: each may hold its graphs in two variants until the faster one is known.
_MOST_LOADS = 4

_WANTED = "name the folder that holds models, each in a folder NAME/VERSION with a bundle.json or a model.onnx"

_log = logging.getLogger(__name__)


class Repository:
    """All models being served. Belongs to the event loop; what takes long runs elsewhere, and no call waits for it."""

    def __init__(self, source: Source, settings: EngineSettings, metrics: Metrics, loop: asyncio.AbstractEventLoop):
        loader = Loader(settings, metrics, loop)
        self.cache: PrefixCache = loader.cache
        self.state_keys = loader.state_keys
        self.source = source
        self._takes_calls = settings.repository_calls != "off"
        self._unload_timeout_s = settings.unload_timeout_s
        self._metrics = metrics
        self._budget = MemoryBudget(settings.max_models_memory)
        self._loads = Loads(source, loader, self._budget, metrics.models, settings)
        # With a limit on memory the order decides what is served, and two measurements at once are none.
        one_by_one = settings.max_models_memory or settings.autotune
        self._loads_at_start = 1 if one_by_one else min(_MOST_LOADS, settings.cores or available_cores())
        self._listing: Listing = {}
        self._problem = ""  # why the source cannot be read now
        self._states: dict[str, ModelState] = {}
        self._catalog = Catalog((), {})
        self._unloaded: set[str] = set()  # by call: no change of the folder brings them back
        self._retiring: dict[Version, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._refreshes: set[asyncio.Task[None]] = set()
        self._listener: Listener = _nobody
        self._has_sequences: Callable[[Served], bool] = lambda model: False
        metrics.watch_cache(self.cache)

    @classmethod
    def open(
        cls,
        models: Path | Source,
        *,
        settings: EngineSettings,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        may_be_empty: bool = False,
    ) -> "Repository":
        """Loads what lies in a folder or another source. May run on any thread, before anything is served.

        `may_be_empty` takes a folder with nothing in it for one that will be filled.

        Raises:
            BundleError: of a model, no version can be loaded.
            ConfigError: there are no models, there is no room for one or it cannot be read, or a setting does not fit.
        """
        source = LocalSource(models) if isinstance(models, Path) else models
        repository = cls(source, settings, metrics, loop)
        try:
            repository._start(may_be_empty)
        except BaseException:
            repository.close()
            raise
        return repository

    def models(self) -> Sequence[Served]:
        """Returns all models by name and version."""
        return self._catalog.models

    def names(self) -> Sequence[str]:
        """Returns the name of each model that is served, once."""
        return [name for name, state in self._states.items() if state.versions]

    def find(self, name: str, version: str = "") -> Served:
        """Returns a model by name, and by version or label; without one the default, which is mostly the newest.

        What is returned may be used until the end of the call, and of what it began; keeping it longer keeps a version
        from being closed.

        Raises:
            ModelNotFoundError: there is none.
        """
        return self._catalog.find(object, name, version)  # type: ignore[return-value]  # of all kinds

    def language_model(self, name: str = "", version: str = "") -> LanguageModel:
        """Returns a language model; without a name the only one there is. See `find`.

        Raises:
            ModelNotFoundError: there is none.
            InvalidRequestError: no name was given and there are several.
        """
        return self._catalog.find(LanguageModel, name, version)

    def sentence_encoder(self, name: str = "", version: str = "") -> SentenceEncoder:
        """Returns a sentence encoder; see `language_model`."""
        return self._catalog.find(SentenceEncoder, name, version)

    def ending(self, name: str) -> list[Served]:
        """Returns the versions of a model that were replaced and go on for the sequences that they hold."""
        return [version.handle for version in self._retiring if version.name == name and version.can_go_on]

    def keep_while(self, has_sequences: Callable[[Served], bool]) -> None:
        """Keeps a version that was replaced as long as this is true of it, but no longer than `--unload-timeout-s`."""
        self._has_sequences = has_sequences

    def labels(self, name: str) -> Mapping[str, str]:
        """Returns the labels of a model and the versions that they lead to now."""
        state = self._states.get(name)
        return state.names.labels if state else {}

    def index(self) -> list[IndexEntry]:
        """Returns what each version is doing, of all models that are served or lie in the source."""
        return index(
            self._listing,
            unloaded=self._unloaded,
            ending=list(self._retiring),
            loading=tuple(self._loads.running),
            states=self._states,
            problem=self._told(self._problem),
        )

    async def load(self, name: str) -> None:
        """Brings one model up to date, also if it was unloaded or refused before. Returns when it is served.

        Raises:
            ModelNotFoundError: there is no such model.
            ModelLoadError: a version of it is refused; what was served of it still is.
            UnsupportedError: the server takes no such calls.
        """
        self._check_calls()
        async with self._one_at_a_time:
            model = (await self._scan()).get(name)
            if model is None:
                raise ModelNotFoundError(f"model_name: there is no model {name[:64]!r} in the repository")
            self._unloaded.discard(name)
            await self._update(model, again=True)
            if failures := self._states[name].failures:
                raise _refusal(name, failures, self._states[name].versions)

    async def unload(self, name: str) -> None:
        """Takes a model out of service until it is loaded by call. Work that has begun is finished.

        Raises:
            ModelNotFoundError: there is no such model.
            UnsupportedError: the server takes no such calls.
        """
        self._check_calls()
        async with self._one_at_a_time:
            if name not in self._states and name not in self._listing:
                raise ModelNotFoundError(f"model_name: there is no model {name[:64]!r} in the repository")
            self._unloaded.add(name)
            self._publish(name, ModelState())
            _log.info("unloaded %s", name)

    async def refresh(self) -> None:
        """Brings all models up to date. What is wrong is reported, and changes nothing."""
        async with self._one_at_a_time:
            try:
                listing = await self._scan()
            except ModelLoadError:
                return
            for name in sorted({*listing, *self._states} - self._unloaded):
                if model := listing.get(name):
                    await self._update(model)
                else:
                    self._publish(name, ModelState())

    def schedulers(self) -> list[Scheduler]:
        """Returns who runs the batches, of versions that were replaced and still run too."""
        return [version.scheduler for version in self._versions()]

    def listen(self, listener: Listener) -> None:
        """Tells from now on, on the event loop, whether a model is served, whenever something of it has changed.

        Whether the source can be read is told by the name SOURCE_NAME.
        """
        self._listener = listener

    async def drain(self, timeout_s: float) -> bool:
        """Refuses new work, waits for what runs, and tells whether all of it ended in time."""
        drains = asyncio.gather(*(version.drain() for version in self._versions()))
        try:
            await asyncio.wait_for(drains, timeout_s)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Ends all runner threads."""
        for task in (*self._refreshes, *self._retiring.values()):
            task.cancel()
        for version in self._versions():
            version.close()

    def _check_calls(self) -> None:
        if not self._takes_calls:
            raise UnsupportedError(
                "this server loads and unloads no models by call (--repository-calls; auto takes those from its own "
                "machine, or with keys; several --workers take none); "
                "change its repository instead"
            )

    def _start(self, may_be_empty: bool) -> None:
        try:
            self._listing = self.source.scan()
        except ConfigError as error:
            raise ConfigError(f"{error}; {_WANTED}") from None
        if not self._listing and may_be_empty and self.source.is_empty():
            _log.warning("%s is empty: the server is not ready before a model is there", self.source)
        elif not self._listing:
            raise ConfigError(f"--models {self.source}: has no models; {_WANTED}")
        with ThreadPoolExecutor(self._loads_at_start) as pool:
            states = list(pool.map(lambda model: self._loads.update(model, ModelState()), self._listing.values()))
        for name, state in zip(self._listing, states, strict=True):
            if state.versions:  # else there will be no server, and whoever starts it tells why
                self._publish(name, state)
        for name, state in zip(self._listing, states, strict=True):
            if not state.versions:
                raise _no_start(name, state.failures)
        self.source.retain(self._files())
        self._loads.is_serving = True

    async def _scan(self) -> Listing:
        """Looks at the source, and reports what is wrong with it.

        Raises:
            ModelLoadError: it cannot be read.
        """
        try:
            listing = await asyncio.to_thread(self.source.scan)
            if self._states and not listing:
                # More often a volume that is not mounted than the wish to serve nothing.
                raise ConfigError(f"--models {self.source}: has no models any more")
        except (ConfigError, OSError) as error:
            self._metrics.models.failed("", "unreadable")
            self._note(str(error))
            raise ModelLoadError(f"{self._told(str(error))}; what is served stays as it is") from None
        self._note("")
        self._listing = listing
        return listing

    def _told(self, problem: str) -> str:
        """Returns a problem in words for callers, who are not to learn where the models lie."""
        return problem.replace(f"--models {self.source}", "the repository").replace(str(self.source), "the repository")

    def _note(self, problem: str) -> None:
        """Takes note of whether the source can be read, and says so where that has changed."""
        if problem and problem != self._problem:
            _log.error("%s; what is served stays as it is", problem)
        if self._problem and not problem:
            _log.info("--models %s: can be read again", self.source)
        if bool(problem) != bool(self._problem):
            self._listener(SOURCE_NAME, not problem)
        self._problem = problem

    async def _update(self, model: ModelFiles, *, again: bool = False) -> None:
        now = self._states.get(model.name, ModelState())
        self._publish(model.name, await asyncio.to_thread(self._loads.update, model, now, again=again))
        await asyncio.to_thread(self.source.retain, self._files())

    def _publish(self, name: str, state: ModelState) -> None:
        """Answers calls by this state from here on, and lets the versions end that are not part of it."""
        before = self._states.pop(name, ModelState())
        if state.versions or state.failures:
            self._states[name] = state
        handles = [version.handle for each in self._states.values() for version in each.versions.values()]
        self._catalog = Catalog(handles, {name: each.names for name, each in self._states.items()})
        old, new = set(before.versions.values()), set(state.versions.values())
        for version in new - old:
            self._metrics.models.served(version.name, version.version, version.files.size)
            self._metrics.model_loaded(**describe(version.handle))
        for version in old - new:
            self._retiring[version] = asyncio.create_task(self._retire(version))
        for failed, failure in state.failures.items():
            if failure not in before.failures.values():
                self._report(name, failed, failure, before.failures.get(failed))
        self._listener(name, bool(state.versions))

    def _report(self, name: str, version: str, failure: Failure, before: Failure | None) -> None:
        self._metrics.models.failed(name, failure.kind)
        if before is None or (before.files, before.reason) != (failure.files, failure.reason):  # else it was said
            error = failure.error if failure.kind == "failed" else None
            _log.error("%s: %s", _words(name, version), failure.reason, exc_info=error)
        failure.error.__traceback__ = failure.error.__context__ = None  # its frames hold what was loaded so far

    async def _retire(self, version: Version) -> None:
        try:
            await version.retire(self._unload_timeout_s, has_sequences=self._has_sequences)
        except Exception:
            _log.exception("%s version %s could not be closed", version.name, version.version)
        del self._retiring[version]
        self._forget(version)
        if any(isinstance(failure.error, ModelMemoryError) for failure in self._failures()):
            self._begin_refresh()  # there is room now

    def _begin_refresh(self) -> None:
        task = asyncio.create_task(self.refresh())
        self._refreshes.add(task)
        task.add_done_callback(self._refreshes.discard)

    def _forget(self, version: Version) -> None:
        self._budget.release(version.claim)
        self._metrics.models.closed()
        serving = self._states.get(version.name, ModelState()).versions
        if version.version not in serving:
            self._metrics.models.forget(version.name, version.version)
            self._metrics.model_unloaded(version.name, version.version)
        if version.fingerprint not in {each.fingerprint for each in self._versions()}:
            self.cache.forget(version.fingerprint)

    def _versions(self) -> Iterator[Version]:
        for state in self._states.values():
            yield from state.versions.values()
        yield from self._retiring

    def _files(self) -> list[VersionFiles]:
        return [version.files for version in self._versions()]

    def _failures(self) -> Iterator[Failure]:
        for state in self._states.values():
            yield from state.failures.values()


def _words(name: str, version: str) -> str:
    return f"{name} version {version}" if version else name


def _no_start(name: str, failures: Mapping[str, Failure]) -> Exception:
    """Returns why there will be no server: of a model, no version can be served."""
    version, failure = next(iter(failures.items()))
    if failure.kind == "failed":
        _log.error("%s: %s", _words(name, version), failure.reason, exc_info=failure.error)
        return BundleError(f"{_words(name, version)}: {failure.reason}")
    return ConfigError(f"{_words(name, version)}: {failure.reason}") if failure.may_pass else failure.error


def _refusal(name: str, failures: Mapping[str, Failure], served: Mapping[str, Version]) -> ModelLoadError:
    version, failure = next(iter(failures.items()))
    kind = ModelMemoryError if isinstance(failure.error, ModelMemoryError) else ModelLoadError
    rest = f"; {name} version {', '.join(served)} goes on being served" if served else ""
    what = _words(name, version)
    return kind(f"{what} cannot be loaded: {failure.told}{rest}")


def _nobody(name: str, is_served: bool) -> None:
    pass
