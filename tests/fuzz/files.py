"""Files that a hostile or broken publisher might leave: models, tokenizers and settings, nearly right or damaged.

Each attack writes inputs and has the server's own code read them. What raises anything but the error that is meant for
such files has found a fault, as has what ends the process, hangs, or takes much memory: `children.py` looks for that.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

import numpy as np
import onnx
from onnx import ModelProto
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bundles import WORDS, language_model_bundle, sentence_encoder_bundle, word_tokenizer
from fuzz.alterations import altered_json, altered_lines, altered_message
from fuzz.messages import Drawing
from hiddenstate_server.bundle import BUNDLE_FILE, CARD_FILE, TOKENIZER_FILE, load_bundle
from hiddenstate_server.config import MIB, EngineSettings
from hiddenstate_server.errors import BundleError, ConfigError, InvalidRequestError, ServingError
from hiddenstate_server.inference.onnx_config import CONFIG_FILE
from hiddenstate_server.inference.onnx_model import ONNX_FILE, OnnxModel
from hiddenstate_server.inference.tensors import DTYPES, Tensors
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.repository.files import Stamp, VersionFiles
from hiddenstate_server.repository.loader import Loader
from hiddenstate_server.repository.policy import POLICY_FILE, read_policy
from hiddenstate_server.security.keys import read_keys
from hiddenstate_server.security.state_keys import read_state_keys
from hiddenstate_server.state_token import State, StateKeys, check_bounds, pack_state, unpack_state
from hiddenstate_server.tokenizer import Tokenizer
from onnx_files import SUM_CONFIG, counting_model, echo_model, scale_model, sum_model
from onnx_graphs import LSTM_CONFIG, dynamic_int8, memory_of_all, neighbours_matter, stateful_lstm, tagger, times_factor

_REFUSALS: Final = (BundleError, ConfigError)
_SETTINGS: Final = EngineSettings(
    provider="cpu", cores=1, threads=1, runners=1, max_batch=8, max_tensor_memory=64 * MIB
)
_OPERATORS: Final = (
    *("Identity", "Add", "Cast", "Compress", "Concat", "ConstantOfShape", "Conv", "DequantizeLinear", "Einsum"),
    *("Expand", "GRU", "Gather", "GatherND", "If", "LSTM", "Loop", "MatMul", "MaxUnpool"),
    *("NonMaxSuppression", "NonZero", "OneHot", "Optional", "Pad", "QuantizeLinear", "RNN", "Range", "ReduceSum"),
    *("Reshape", "Resize", "RoiAlign", "STFT", "Scan", "ScatterElements", "SequenceAt", "SequenceConstruct", "Slice"),
    *("Split", "Squeeze", "StringNormalizer", "TfIdfVectorizer", "Tile", "TopK", "Unsqueeze", "Where", "ai.onnx.ml"),
    *("com.microsoft", "forward", "bidirectional"),
)
_VALUES: Final = (
    *("0", "1", "-1", "2", "3", "2147483647", "1e9", "nan", "inf", "true", '""', '"auto"', '"x"', '"h"', '"sum"'),
    *("[]", "[1]", "[-1, 4]", "[1, -1, 5]", "[[0.0]]", "[0, 1]", "{}", '["1"]', '"2"', '"latest:2"', "1979-05-27"),
)
_TEXTS: Final = ("", "I would like to thank you", "The car", "\0 é\u0301 \u202e", "it's " * 50, "x" * 3000)
_SETTINGS_SEEDS: Final = {
    "policy": 'versions = "all"\ndefault = "stable"\n[labels]\nstable = "1"\ncanary = "2"\n',
    "keys": f"alice predict,encode {'0a' * 32}\nbob manage {'1b' * 32}\n",
    "state keys": "0a" * 32 + "\n",
}


class Attack(Protocol):
    """One kind of file."""

    @property
    def model(self) -> tuple[VersionFiles, Path] | None:
        """What was written last, where it is a model; those may end the process in which they are tried."""

    def write(self, drawing: Drawing) -> None:
        """Draws the next input."""

    def read(self, random: Random) -> str:
        """Reads it, and returns in a word how it was taken."""


class OnnxFiles:
    """ONNX files of any kind, some with a config, loaded and tried as the server does it, and called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "model"
        self._folder.mkdir()
        self._seeds = _onnx_seeds(folder / "seeds")
        self._loop = asyncio.new_event_loop()
        self.model = (_version("m", ONNX_FILE), self._folder)

    def write(self, drawing: Drawing) -> None:
        message, config = drawing.random.choice(self._seeds)
        if drawing.random.random() < 0.85:
            message = altered_message(drawing, message, _OPERATORS)
        data = message.SerializeToString()
        (self._folder / ONNX_FILE).write_bytes(drawing.damaged(data) if drawing.random.random() < 0.25 else data)
        (self._folder / CONFIG_FILE).write_text(config)

    def read(self, random: Random) -> str:
        return _loaded_onnx(self._folder, self._loop, random)


class OnnxConfigs:
    """The config beside an ONNX file."""

    def __init__(self, folder: Path) -> None:
        graphs: Sequence[tuple[Callable[..., Path], str]] = (
            (stateful_lstm, LSTM_CONFIG),
            (
                times_factor,
                "[inputs.x]\nshape = [-1, 4]\nrange = [-1.0, 1.0]\nlongest = 8\n[outputs.y]\nbatch_axis = 0\n",
            ),
            (memory_of_all, '[[state]]\ninput = "past"\noutput = "present"\nbatch_axis = 0\nshape = [-1, 0, 1]\n'),
        )
        lines = "[sequences]\nidle_limit_s = 5.0\nmax_bytes = 100000\n"
        self._seeds = [
            (
                write(folder / str(number), config=config),
                f'batching = "auto"\nmax_batch = 4\nthreads = 1\n{config}{lines}',
            )
            for number, (write, config) in enumerate(graphs)
        ]
        self._loop = asyncio.new_event_loop()
        self.model = (_version("m", ONNX_FILE), folder)

    def write(self, drawing: Drawing) -> None:
        folder, config = drawing.random.choice(self._seeds)
        self.model = (self.model[0], folder)
        config = altered_lines(drawing.random, config, _VALUES)
        data = config.encode()
        (folder / CONFIG_FILE).write_bytes(drawing.damaged(data) if drawing.random.random() < 0.2 else data)

    def read(self, random: Random) -> str:
        return _loaded_onnx(self.model[1], self._loop, random)


class Tokenizers:
    """Files of tokenizers, and texts for those that are taken."""

    def __init__(self, folder: Path) -> None:
        self.model = None
        self._path = folder / TOKENIZER_FILE
        self._seeds = [json.loads(tokenizer.to_str()) for tokenizer in _tokenizers()]

    def write(self, drawing: Drawing) -> None:
        seed = drawing.random.choice(self._seeds)
        data = json.dumps(altered_json(drawing.random, seed) if drawing.random.random() < 0.85 else seed).encode()
        self._path.write_bytes(drawing.damaged(data) if drawing.random.random() < 0.25 else data)

    def read(self, random: Random) -> str:
        try:
            tokenizer = Tokenizer.from_file(self._path)
        except BundleError:
            return "refused"
        try:
            for text in _TEXTS:
                tokenizer.encode(text)
            for tokens in tokenizer.encode_batch(_TEXTS):
                tokenizer.cut(tokens, tokenizer.num_marks + 1)
        except ServingError:
            return "failed at a text"
        return "taken"


class Bundles:
    """Bundles whose description, graphs or tokenizer were altered and have the checksums of what they are now."""

    def __init__(self, folder: Path) -> None:
        self._seeds = [_files_of(language_model_bundle(folder)), _files_of(sentence_encoder_bundle(folder))]
        self._loader = Loader(_SETTINGS, Metrics(), asyncio.new_event_loop())
        self._name = ""
        self.model = (_version("", BUNDLE_FILE), folder)

    def write(self, drawing: Drawing) -> None:
        random = drawing.random
        folder, files = random.choice(self._seeds)
        self._name = random.choice([name for name in files if name != CARD_FILE])
        _write(folder, {**files, self._name: _altered(drawing, self._name, files[self._name])})
        if random.random() < 0.8:
            _seal(folder)
        self.model = (_version(folder.parent.name, BUNDLE_FILE), folder)

    def read(self, random: Random) -> str:
        try:
            self._loader.load(*self.model).close()
        except _REFUSALS as error:
            _check_line(error)
            return f"refused for {self._name}"
        return f"taken with another {self._name}"


class StateTokens:
    """States that a caller made up, sealed with the right key, another, or none."""

    _FINGERPRINT: Final = bytes(range(16))
    _KEYS: Final[Sequence[StateKeys]] = ((), (b"k" * 32,), (b"o" * 32, b"k" * 32))

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(language_model_bundle(folder))
        assert bundle.language_model is not None
        self._size = bundle.language_model.state_size
        self._bounds = bundle.variants["fp32"].state_bounds
        self.model = None
        self._token = b""

    def write(self, drawing: Drawing) -> None:
        random = drawing.random
        size = random.choice((self._size, self._size, self._size, 0, 1, self._size + 1))
        values = (
            np.frombuffer(random.randbytes(4 * size), dtype="<f4") if random.random() < 0.5 else np.zeros(size, "<f4")
        )
        fingerprint = self._FINGERPRINT if random.random() < 0.8 else random.randbytes(16)
        token = pack_state(
            State(values.astype(np.float32).tobytes(), random.choice((0, 1, 2**31, 2**64 - 1))),
            fingerprint,
            random.choice(self._KEYS),
        )
        self._token = drawing.damaged(token) if random.random() < 0.4 else token

    def read(self, random: Random) -> str:
        try:
            state = unpack_state(self._token, self._FINGERPRINT, self._size, random.choice(self._KEYS))
            check_bounds(state, self._bounds)
        except InvalidRequestError:
            return "refused"
        assert state.values.shape == (self._size,)
        assert np.isfinite(state.values).all()
        return "taken"


class SettingsFiles:
    """Policies of models, files of API keys, files of keys for states."""

    def __init__(self, folder: Path) -> None:
        self.model = None
        self._path = folder / POLICY_FILE
        self._path.touch(mode=0o600)
        self._kind = ""

    def write(self, drawing: Drawing) -> None:
        self._kind = drawing.random.choice(list(_SETTINGS_SEEDS))
        seed = _SETTINGS_SEEDS[self._kind]
        data = altered_lines(drawing.random, seed, _VALUES).encode()
        data = drawing.damaged(data) if drawing.random.random() < 0.4 else data
        self._path.write_bytes(data)

    def read(self, random: Random) -> str:
        try:
            match self._kind:
                case "policy":
                    read_policy(self._path.read_bytes(), POLICY_FILE)
                case "keys":
                    read_keys(self._path)
                case _:
                    read_state_keys(self._path)
        except _REFUSALS as error:
            _check_line(error)
            return f"{self._kind} refused"
        return f"{self._kind} taken"


ATTACKS: Final[Mapping[str, Callable[[Path], Attack]]] = {
    "onnx": OnnxFiles,
    "config": OnnxConfigs,
    "tokenizer": Tokenizers,
    "bundle": Bundles,
    "state": StateTokens,
    "settings": SettingsFiles,
}


def _altered(drawing: Drawing, name: str, data: bytes) -> bytes:
    if drawing.random.random() < 0.2:
        return drawing.damaged(data)
    if name.endswith(".json"):
        return json.dumps(altered_json(drawing.random, json.loads(data))).encode()
    if name.endswith(".onnx"):
        return altered_message(drawing, ModelProto.FromString(data), _OPERATORS).SerializeToString()
    return drawing.damaged(data)


def _version(name: str, file: str) -> VersionFiles:
    return VersionFiles(name=name, version="1", path="", files=((file, Stamp(1, "")),))


def _loaded_onnx(folder: Path, loop: asyncio.AbstractEventLoop, random: Random) -> str:
    try:
        model = OnnxModel.load(folder, "m", "1", _SETTINGS, Metrics(), loop)
    except _REFUSALS as error:
        _check_line(error)
        return "refused"
    try:
        loop.run_until_complete(model.infer(_inputs(model, random)))
    except ServingError as error:
        return f"loaded, then {error.code.name}"
    finally:
        model.close()
    return "loaded and run"


def _check_line(error: Exception) -> None:
    assert "\n" not in str(error), error


def _inputs(model: OnnxModel, random: Random) -> Tensors:
    def array(shape: Sequence[int], dtype: Any) -> Any:
        sizes = [random.choice((1, 2, 3)) if size < 0 else min(size, 64) for size in shape]
        if dtype.kind == "O":
            return np.full(sizes, b"a", dtype=object)
        return np.full(sizes, random.choice((0, 1, 2, 3, -1)), dtype=np.int64).astype(dtype)

    return {spec.name: array(spec.shape, DTYPES[spec.datatype]) for spec in model.inputs}


def _onnx_seeds(folder: Path) -> list[tuple[ModelProto, str]]:
    stateful = [(stateful_lstm(folder / "lstm"), LSTM_CONFIG), (sum_model(folder), SUM_CONFIG)]
    others = [
        *(tagger(folder / "tagger"), neighbours_matter(folder / "mean"), dynamic_int8(folder / "int8")),
        *(times_factor(folder / "factor"), memory_of_all(folder / "memory", config="")),
        *(echo_model(folder), scale_model(folder), counting_model(folder)),
    ]
    return [
        (onnx.load(str(path / ONNX_FILE)), config) for path, config in (*stateful, *((path, "") for path in others))
    ]


def _tokenizers() -> list[HuggingFaceTokenizer]:
    vocabulary = ["<eos>", "<unk>", *WORDS]
    pieces = HuggingFaceTokenizer(
        models.WordPiece(
            {word: at for at, word in enumerate([*vocabulary, "##s", "[CLS]", "[SEP]"])}, unk_token="<unk>"
        )
    )
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", len(vocabulary) + 1), ("[SEP]", len(vocabulary) + 2)]
    )
    pieces.decoder = decoders.WordPiece()
    letters = {letter: at for at, letter in enumerate("abcdehiklnorstuwy Ġ")} | {"th": 19, "the": 20}
    bytewise = HuggingFaceTokenizer(models.BPE(letters, [("t", "h"), ("th", "e")]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel()
    bytewise.decoder = decoders.ByteLevel()
    likely = HuggingFaceTokenizer(
        models.Unigram([("<unk>", 0.0), ("\u2581the", -1.0), ("\u2581", -2.0), ("a", -3.0)], 0)
    )
    likely.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "\u2581")])
    likely.pre_tokenizer = pre_tokenizers.Metaspace()
    return [word_tokenizer(vocabulary), pieces, bytewise, likely]


def _files_of(folder: Path) -> tuple[Path, dict[str, bytes]]:
    return folder, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _seal(folder: Path) -> None:
    """Has the description name the checksums of what lies there, as far as it is one."""
    path = folder / BUNDLE_FILE
    try:
        described = json.loads(path.read_bytes())
        files = described["files"]
        described["files"] = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).is_file() else checksum
            for name, checksum in files.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return
    path.write_text(json.dumps(described))
