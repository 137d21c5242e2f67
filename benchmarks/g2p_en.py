"""Imports the recurrent networks of g2p-en, serves them, and compares how they and g2p-en's own code spell words.

    python -m benchmarks.g2p_en --words words.txt

g2p-en 2.1.0 (Apache-2.0) turns English spelling into phonemes with two GRUs and code in numpy: one reads the letters,
its last state is where the other begins, which then says phoneme after phoneme. Here the first is imported as a
sentence encoder that gives its last state, the second as a language model of phonemes. Both are served; the vector that
Encode answers is handed to Generate as a state. The package is downloaded with pip, not installed; where a word list
is at hand in a bundle below models/, words are taken from there.
"""

import asyncio
import importlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from unittest.mock import MagicMock

import click
import numpy as np
from tokenizers import Tokenizer

from hiddenstate import AsyncClient
from hiddenstate_exporter.foreign.model import import_model
from hiddenstate_exporter.graphs.weights import StoredDtype
from hiddenstate_exporter.publishing.export import ExportOptions
from hiddenstate_server.bundle import load_bundle
from hiddenstate_server.config import Settings
from hiddenstate_server.server import Server
from hiddenstate_server.state_token import State, pack_state

PACKAGE: Final = "g2p-en==2.1.0"
MOCKED: Final = ("nltk", "nltk.corpus", "nltk.tokenize", "inflect")  # g2p-en wants them for what is not compared here
MAX_PHONEMES: Final = 20  # where g2p-en stops
CONCURRENT: Final = 32  # words that are spelt at a time
SHOWN: Final = 10  # differences

Spelling = list[str]


@click.command()
@click.option("--words", "words_file", type=click.Path(path_type=Path, exists=True), help="Words, one on a line.")
@click.option("--count", type=click.IntRange(min=1), default=500, show_default=True, help="How many of them.")
@click.option("--wheel", type=click.Path(path_type=Path, exists=True), help="g2p-en's wheel.  [default: downloaded]")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
def main(words_file: Path | None, count: int, wheel: Path | None, dtype: StoredDtype) -> None:
    """Spell words with g2p-en's numpy code and with its weights on a hiddenstate server, and count where they agree."""
    words = _words(words_file, count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = _load_original(folder, wheel or _download(folder))
        click.echo(f"{PACKAGE}, Python {sys.version.split()[0]}, onnxruntime {version('onnxruntime')}")
        models = _import(folder, original, dtype)
        started_at = time.perf_counter()
        expected = [original.predict(word) for word in words]
        middle = time.perf_counter()
        spelt = asyncio.run(_spell_all(models, words))
        click.echo(f"numpy {middle - started_at:.1f} s, served {time.perf_counter() - middle:.1f} s")
    _report(words, expected, spelt)


def _words(path: Path | None, count: int) -> list[str]:
    """Returns words of the letters a to z, as g2p-en knows them."""
    found = path.read_text(encoding="utf-8").split() if path else list(_words_of_bundles())
    words = [word for word in dict.fromkeys(found) if word.isascii() and word.isalpha() and word.islower()]
    if len(words) < count:
        raise click.ClickException(f"{len(words)} lowercase words found, {count} are needed: name a file with --words")
    return words[:: len(words) // count][:count]  # some frequent, some rare


def _words_of_bundles() -> Iterator[str]:
    for path in sorted(Path("models").glob("*/*/tokenizer.json")):
        vocabulary = Tokenizer.from_file(str(path)).get_vocab()
        yield from sorted(vocabulary, key=lambda word: (vocabulary[word], word))


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(pip, check=True)
    return next(folder.glob("*.whl"))


def _load_original(folder: Path, wheel: Path) -> Any:
    """Returns g2p-en's own object."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    sys.path.insert(0, str(folder))
    sys.modules.update({name: MagicMock() for name in MOCKED})
    return importlib.import_module("g2p_en.g2p").G2p()


def _import(folder: Path, original: Any, dtype: StoredDtype) -> Path:
    weights, models = folder / "g2p_en" / "checkpoint20.npz", folder / "models"
    for name, description in (("spelling", _encoder(original.graphemes)), ("phonemes", _decoder(original.phonemes))):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(description), encoding="utf-8")
        import_model(weights, path, ExportOptions(to=models, name=name, dtype=dtype), echo=click.echo)
    return models


def _encoder(letters: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": "sentence_encoder",
        "pooling": "last",
        "vocabulary": {"words": letters, "split": "characters"},
        "ignore": ["dec_*", "fc_*"],
        **_common("enc"),
    }


def _decoder(phonemes: Sequence[str]) -> dict[str, Any]:
    common = _common("dec")
    common["rename"] |= {"fc_w": "fc.weight", "fc_b": "fc.bias"}
    return {
        "kind": "language_model",
        "decoder": "fc",
        "bos": "<s>",
        "vocabulary": {"words": phonemes, "split": "whitespace"},
        "ignore": ["enc_*"],
        **common,
    }


def _common(part: str) -> dict[str, Any]:
    tensors = itertools.product(("w", "b"), ("ih", "hh"))
    gru = {f"{part}_{kind}_{of}": f"gru.{'weight' if kind == 'w' else 'bias'}_{of}_l0" for kind, of in tensors}
    return {
        "cell": "gru",
        "embedding": f"{part}_emb",
        "rnn": "gru",
        "rename": gru,
        "eos": "</s>",
        "special_words": ["<pad>"],
        "license": "Apache-2.0",
        "training_data": "the CMU pronouncing dictionary, by the authors of g2p-en",
    }


async def _spell_all(models: Path, words: Sequence[str]) -> list[Spelling]:
    server = await Server.start(Settings.of(models=models, listen="127.0.0.1:0", metrics="off"))
    slots = asyncio.Semaphore(CONCURRENT)
    fingerprint = load_bundle(models / "phonemes" / "1").fingerprint
    try:
        async with AsyncClient(str(server.address)) as client:
            states = await client.encode(words, model="spelling")  # [words, hidden_size]

            async def spell(state: np.ndarray) -> Spelling:
                token = pack_state(State(state.tobytes(), num_tokens=0), fingerprint)
                async with slots:
                    generation = client.generate("<s>", state=token, max_tokens=MAX_PHONEMES, temperature=0.0)
                    return [generated.word async for generated in generation if generated.word]

            return await asyncio.gather(*map(spell, states))
    finally:
        await server.stop()


def _report(words: Sequence[str], expected: Sequence[Spelling], spelt: Sequence[Spelling]) -> None:
    different = [row for row in zip(words, expected, spelt, strict=True) if row[1] != row[2]]
    for word, own, served in different[:SHOWN]:
        click.echo(f"{word}: g2p-en {' '.join(own)}, served {' '.join(served)}")
    for word, own in list(zip(words, expected, strict=True))[:: max(1, len(words) // 3)]:
        click.echo(f"for example {word}: {' '.join(own)}")
    click.echo(f"{len(words) - len(different)} of {len(words)} words are spelt as g2p-en's own code does")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
