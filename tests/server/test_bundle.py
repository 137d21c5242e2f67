"""Bundles that are not what they say are refused, saying which file and why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hiddenstate_server.bundle import load_bundle, write_bundle
from hiddenstate_server.errors import BundleError

Document = dict[str, Any]


@pytest.fixture
def folder(models_dir: Path, tmp_path: Path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(models_dir / "tiny-lm" / "1", tmp_path / "tiny-lm" / "1"))


def edit(folder: Path, change: Callable[[Document], object]) -> None:
    document = json.loads((folder / "bundle.json").read_text())
    change(document)
    (folder / "bundle.json").write_text(json.dumps(document))


def test_a_bundle_is_read_as_it_was_written(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert (bundle.name, bundle.version, bundle.kind) == ("tiny-lm", "1", "language_model")
    assert set(bundle.files) == {"recurrent.onnx", "head.onnx", "weights.bin", "tokenizer.json"}
    assert str(bundle.architecture) == "LSTM 2x16, embedding 8 (tied)"
    before = (folder / "bundle.json").read_bytes()
    assert write_bundle(bundle, folder) == bundle
    assert (folder / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("name", ["weights.bin", "head.onnx", "tokenizer.json", "bundle.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: no such file"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["weights.bin", "recurrent.onnx", "tokenizer.json"])
def test_a_file_with_one_bit_changed_is_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 4
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: SHA-256 is .* damaged or was changed"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version=2), "schema_version: is 2, this release reads 1"),
        (lambda d: d.update(schema_version=2, colour="red"), "schema_version: is 2, this release reads 1"),
        (lambda d: d.pop("schema_version"), "missing required field `schema_version`"),
        (lambda d: d.pop("vocab_size"), "missing required field `vocab_size`"),
        (lambda d: d.update(vocab_size="many"), r"Expected `int`, got `str` - at `\$.vocab_size`"),
        (lambda d: d.update(vocab_size=0), r"Expected `int` >= 1 - at `\$.vocab_size`"),
        (lambda d: d.update(colour="red"), "unknown field `colour`"),
        (lambda d: d.update(name="../etc"), "name: is not a valid name"),
        (lambda d: d.update(name="a\n"), "name: is not a valid name"),
        (lambda d: d.update(variants={}), "variants: is empty"),
        (lambda d: d["variants"]["fp32"]["graphs"].pop("head"), "variants.fp32.graphs: must name head, recurrent"),
        (lambda d: d["variants"]["fp32"]["graphs"].update(head="../x.onnx"), "'../x.onnx' is not listed in files"),
        (lambda d: d["files"].update({"../x": "0" * 64}), "files: '../x' is not a plain file name"),
        (lambda d: d["files"].pop("tokenizer.json"), "files: tokenizer.json is not listed"),
        (lambda d: d.pop("language_model"), "language_model: is missing, but kind is language_model"),
        (lambda d: d["language_model"].update(state_size=3), "language_model.output_offset: the output does not fit"),
        (lambda d: d["language_model"].update(bos_token_id=10**6), "language_model.bos_token_id: 1000000 is outside"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(
    folder: Path, change: Callable[[Document], object], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
@example(b'{"schema_version": 1, "name": "\xff"}')
def test_arbitrary_bytes_are_no_bundle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(data)
    with pytest.raises(BundleError, match=r"bundle\.json: "):
        load_bundle(tmp_path)


def test_models_differ_in_their_fingerprints(folder: Path) -> None:
    first = load_bundle(folder).fingerprint
    edit(folder, lambda d: d.update(version="2"))
    assert len({first, load_bundle(folder).fingerprint}) == 2
