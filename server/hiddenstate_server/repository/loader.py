"""Makes models of files: bundles, and ONNX models of any kind."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from hiddenstate_server.bundle import BUNDLE_FILE, TOKENIZER_FILE, Bundle, VariantName, load_bundle
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import BundleError
from hiddenstate_server.inference.onnx_file import external_files
from hiddenstate_server.language_model import LanguageModel
from hiddenstate_server.layout import Layout, default_layout, measured_layout
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.prefix_cache import PrefixCache
from hiddenstate_server.providers import Provider, choose_provider
from hiddenstate_server.repository.checksums import CHECKSUM_FILE, check_files
from hiddenstate_server.repository.files import ONNX_FILE, VersionFiles
from hiddenstate_server.runner import EncoderRunner, LanguageModelRunner
from hiddenstate_server.security.state_keys import watched_state_keys
from hiddenstate_server.sentence_encoder import SentenceEncoder
from hiddenstate_server.state_token import UNSEALED, StateKeys
from hiddenstate_server.tokenizer import Tokenizer
from hiddenstate_server.variant_choice import load_variant

if TYPE_CHECKING:
    from hiddenstate_server.inference.onnx_model import OnnxModel

Served: TypeAlias = "LanguageModel | SentenceEncoder | OnnxModel"
R = TypeVar("R", LanguageModelRunner, EncoderRunner)

_log = logging.getLogger(__name__)


class Loader:
    """Loads models, on any thread; chooses the provider with the first bundle."""

    def __init__(self, settings: EngineSettings, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self.cache = PrefixCache(settings.cache_bytes)
        self.state_keys = watched_state_keys(settings.state_key_file)
        self._settings = settings
        self._metrics = metrics
        self._loop = loop
        self._provider: Provider | None = None
        self._choosing = threading.Lock()

    def load(self, files: VersionFiles, folder: Path) -> Served:
        """Loads a model from the folder that holds its files.

        Raises:
            BundleError: the files are damaged, or contradict each other.
            ConfigError: a setting does not fit the model.
        """
        if files.has(BUNDLE_FILE) and files.has(ONNX_FILE):
            raise BundleError(f"{folder}: has both {BUNDLE_FILE} and {ONNX_FILE}; give each a version of its own")
        if files.has(ONNX_FILE):
            return self._load_onnx(files, folder)
        return self._load_bundle(files, folder)

    def _load_onnx(self, files: VersionFiles, folder: Path) -> "OnnxModel":
        from hiddenstate_server.inference.onnx_model import OnnxModel

        if files.has(CHECKSUM_FILE):
            check_files(folder)
        model = OnnxModel.load(folder, files.name, files.version, self._settings, self._metrics, self._loop)
        _log.info("loaded %s version %s: %s", model.name, model.version, ONNX_FILE)
        return model

    def _load_bundle(self, files: VersionFiles, folder: Path) -> LanguageModel | SentenceEncoder:
        bundle = load_bundle(folder)
        if (bundle.name, bundle.version) != (files.name, files.version):
            raise BundleError(f"{folder}: bundle.json names {bundle.name}/{bundle.version}; name the folder the same")
        _check_weights(bundle, folder)
        tokenizer = Tokenizer.from_file(folder / TOKENIZER_FILE)
        _check_tokenizer(bundle, tokenizer, folder)
        model = self._serve(bundle, folder, tokenizer, self._choose_provider(bundle, folder))
        _log.info("loaded %s version %s: %s", bundle.name, bundle.version, bundle.architecture)
        return model

    def _serve(
        self, bundle: Bundle, folder: Path, tokenizer: Tokenizer, provider: Provider
    ) -> LanguageModel | SentenceEncoder:
        settings, metrics, loop = self._settings, self._metrics, self._loop
        if bundle.kind == "language_model":
            language_model, layout = self._load_runner(LanguageModelRunner, bundle, folder, provider)
            return LanguageModel(
                bundle,
                tokenizer,
                language_model,
                provider=provider.name,
                layout=layout,
                settings=settings,
                cache=self.cache,
                state_keys=self._read_state_keys,
                metrics=metrics,
                loop=loop,
            )
        encoder, layout = self._load_runner(EncoderRunner, bundle, folder, provider)
        return SentenceEncoder(
            bundle,
            tokenizer,
            encoder,
            provider=provider.name,
            layout=layout,
            settings=settings,
            metrics=metrics,
            loop=loop,
        )

    def _read_state_keys(self) -> StateKeys:
        return UNSEALED if self.state_keys is None else self.state_keys.value

    def _load_runner(self, kind: type[R], bundle: Bundle, folder: Path, provider: Provider) -> tuple[R, Layout]:
        settings = self._settings
        layout = default_layout(
            provider,
            cores=settings.cores,
            runners=settings.runners,
            threads=settings.threads,
            steps=kind is LanguageModelRunner,
        )

        def load(variant: VariantName, threads: int) -> R:
            return kind(bundle, folder, variant=variant, provider=provider, threads=threads)

        choice = load_variant(settings.variant, bundle, provider, lambda variant: load(variant, layout.threads))
        level = logging.INFO if settings.variant in ("auto", choice.variant) else logging.WARNING
        _log.log(level, "running %s %s in %s: %s", bundle.name, bundle.version, choice.variant, choice.reason)
        runner = choice.runner
        if settings.autotune:
            name = f"{bundle.name} {bundle.version}"
            layout, runner = measured_layout(lambda threads: load(choice.variant, threads), name, cores=settings.cores)
        runner.trial(settings.max_batch)  # ONNX Runtime has the memory for the largest batch before a caller comes
        return runner, layout

    def _choose_provider(self, bundle: Bundle, folder: Path) -> Provider:
        with self._choosing:
            if self._provider is None:
                variant = bundle.variants.get("fp32") or next(iter(bundle.variants.values()))
                probe = next(iter(variant.graphs.values()))
                self._provider = choose_provider(self._settings.provider, folder / probe)
                _log.info("running models on %s: %s", self._provider.name, self._provider.reason)
            return self._provider


def describe(model: Served) -> dict[str, str]:
    """Returns what metrics tell of a model."""
    words = {"model": model.name, "version": model.version}
    if isinstance(model, LanguageModel | SentenceEncoder):
        words |= {"kind": model.bundle.kind, "architecture": str(model.bundle.architecture)}
    else:
        words |= {"kind": "tensor_model", "architecture": model.platform}
    return words | {"provider": model.provider}


def _check_weights(bundle: Bundle, folder: Path) -> None:
    """Checks that graphs read files of the bundle alone, which have a checksum each."""
    listed = {(folder / name).resolve() for name in bundle.files}
    for variant in bundle.variants.values():
        for graph in variant.graphs.values():
            for file in external_files(folder / graph) - listed:
                raise BundleError(f"{folder / graph}: has weights in {file.name!r}, which bundle.json does not list")


def _check_tokenizer(bundle: Bundle, tokenizer: Tokenizer, folder: Path) -> None:
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
