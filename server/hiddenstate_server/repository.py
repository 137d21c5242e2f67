"""The models that a server has, loaded from a folder `NAME/VERSION/`."""

import asyncio
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from hiddenstate_server.bundle import TOKENIZER_FILE, Bundle, is_model_name, load_bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import BundleError, ConfigError, InvalidRequestError, ModelNotFoundError
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.prefix_cache import PrefixCache
from hiddenstate_server.providers import Provider, choose_provider, default_runners
from hiddenstate_server.runner import EncoderRunner, LanguageModelRunner
from hiddenstate_server.sentence_encoder import SentenceEncoder
from hiddenstate_server.tokenizer import Tokenizer
from hiddenstate_server.variant_choice import load_variant

Served = LanguageModel | SentenceEncoder
M = TypeVar("M", bound=Served)
R = TypeVar("R", LanguageModelRunner, EncoderRunner)

_log = logging.getLogger(__name__)


class Repository:
    """All models being served."""

    def __init__(self, models: Sequence[Served], cache: PrefixCache) -> None:
        self.cache = cache
        self._models = sorted(models, key=lambda model: (model.name, _version_key(model.version)))

    @classmethod
    def load(
        cls, models_dir: Path, *, settings: EngineSettings, metrics: Metrics, loop: asyncio.AbstractEventLoop
    ) -> "Repository":
        """Loads the newest version of each model in a folder.

        Raises:
            BundleError: a bundle is damaged.
            ConfigError: the folder has no models, or a setting does not fit them.
        """
        loader = _Loader(settings, metrics, loop)
        metrics.watch_cache(loader.cache)
        models = [loader.load(folder) for folder in _newest_versions(models_dir)]
        if not models:
            raise ConfigError(
                f"--models {models_dir}: has no models; a model is a folder NAME/VERSION with a bundle.json"
            )
        return cls(models, loader.cache)

    def models(self) -> Sequence[Served]:
        """Returns all models by name and version."""
        return self._models

    def find(self, name: str, version: str = "") -> Served:
        """Returns a model by name; without a version the newest.

        Raises:
            ModelNotFoundError: there is none.
        """
        return self._find(name, version, self._models)

    def language_model(self, name: str = "", version: str = "") -> LanguageModel:
        """Returns a language model; without a name the only one there is.

        Raises:
            ModelNotFoundError: there is none.
            InvalidRequestError: no name was given and there are several.
        """
        return self._find(name, version, [m for m in self._models if isinstance(m, LanguageModel)])

    def sentence_encoder(self, name: str = "", version: str = "") -> SentenceEncoder:
        """Returns a sentence encoder; see `language_model`."""
        return self._find(name, version, [m for m in self._models if isinstance(m, SentenceEncoder)])

    async def drain(self, timeout_s: float) -> bool:
        """Refuses new work, waits for what runs, and tells whether all of it ended in time."""
        drains = asyncio.gather(*(model.drain() for model in self._models))
        try:
            await asyncio.wait_for(drains, timeout_s)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Ends all runner threads."""
        for model in self._models:
            model.close()

    def _find(self, name: str, version: str, models: Sequence[M]) -> M:
        there = ", ".join(f"{model.name} version {model.version}" for model in models) or "none"
        if not name and len({model.name for model in models}) > 1:
            raise InvalidRequestError(f"model: is empty, but there are several; name one of: {there}")
        named = [model for model in models if model.name == (name or model.name)]
        if not named:
            problem = f"no model {name[:64]!r} answers this call" if name else "the server has none for this call"
            if any(model.name == name for model in self._models):
                problem = f"{name} is a model of another kind than this call needs"
            raise ModelNotFoundError(f"model: {problem}; there is: {there}")
        found = [model for model in named if model.version == (version or model.version)]
        if not found:
            versions = ", ".join(model.version for model in named)
            raise ModelNotFoundError(
                f"model_version: {named[0].name} has no version {version[:64]!r}; there is: {versions}"
            )
        return found[-1]


class _Loader:
    """Loads bundles; chooses the provider with the first."""

    def __init__(self, settings: EngineSettings, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self.cache = PrefixCache(settings.cache_bytes)
        self._settings = settings
        self._metrics = metrics
        self._loop = loop
        self._provider: Provider | None = None

    def load(self, folder: Path) -> Served:
        bundle = load_bundle(folder)
        if (bundle.name, bundle.version) != (folder.parent.name, folder.name):
            raise BundleError(f"{folder}: bundle.json names {bundle.name}/{bundle.version}; name the folder the same")
        tokenizer = Tokenizer.from_file(folder / TOKENIZER_FILE)
        if tokenizer.vocab_size != bundle.vocab_size:
            raise BundleError(
                f"{folder}: {TOKENIZER_FILE} has {tokenizer.vocab_size} tokens, bundle.json says {bundle.vocab_size}"
            )
        encoder = bundle.sentence_encoder
        if encoder is not None and encoder.max_seq_length <= tokenizer.num_marks:
            raise BundleError(
                f"{folder}: sentence_encoder.max_seq_length is {encoder.max_seq_length}, which leaves no room for a "
                f"sentence beside the {tokenizer.num_marks} marks that {TOKENIZER_FILE} puts around it"
            )
        model = self._serve(bundle, folder, tokenizer, self._choose_provider(bundle, folder))
        self._metrics.model_loaded(model)
        _log.info("loaded %s version %s: %s", bundle.name, bundle.version, bundle.architecture)
        return model

    def _serve(self, bundle: Bundle, folder: Path, tokenizer: Tokenizer, provider: Provider) -> Served:
        settings, metrics, loop = self._settings, self._metrics, self._loop
        runners = settings.runners or default_runners(provider, settings.threads)
        if bundle.kind == "language_model":
            return LanguageModel(
                bundle,
                tokenizer,
                self._load_runner(LanguageModelRunner, bundle, folder, provider),
                provider=provider.name,
                runners=runners,
                settings=settings,
                cache=self.cache,
                metrics=metrics,
                loop=loop,
            )
        return SentenceEncoder(
            bundle,
            tokenizer,
            self._load_runner(EncoderRunner, bundle, folder, provider),
            provider=provider.name,
            runners=runners,
            settings=settings,
            metrics=metrics,
            loop=loop,
        )

    def _load_runner(self, kind: type[R], bundle: Bundle, folder: Path, provider: Provider) -> R:
        threads, wanted = self._settings.threads, self._settings.variant
        choice = load_variant(
            wanted,
            bundle,
            provider,
            lambda variant: kind(bundle, folder, variant=variant, provider=provider, threads=threads),
        )
        level = logging.WARNING if wanted == "int8" and choice.variant != "int8" else logging.INFO
        _log.log(level, "running %s %s in %s: %s", bundle.name, bundle.version, choice.variant, choice.reason)
        return choice.runner

    def _choose_provider(self, bundle: Bundle, folder: Path) -> Provider:
        if self._provider is None:
            variant = bundle.variants.get("fp32") or next(iter(bundle.variants.values()))
            probe = next(iter(variant.graphs.values()))
            self._provider = choose_provider(self._settings.provider, folder / probe)
            _log.info("running models on %s: %s", self._provider.name, self._provider.reason)
        return self._provider


def _newest_versions(models_dir: Path) -> Iterator[Path]:
    """Yields the folder of the newest version of each model, by name."""
    for name in sorted(_folders(models_dir)):
        if versions := _folders(name):
            yield max(versions, key=lambda path: _version_key(path.name))


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir() and is_model_name(path.name)]
    except OSError as error:
        raise ConfigError(f"--models {parent}: cannot be read: {error.strerror}") from None


def _version_key(version: str) -> tuple[tuple[bool, int, str], ...]:
    """Orders versions as people do: 2 before 10."""
    parts = re.findall(r"\d+|\D+", version)
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)
