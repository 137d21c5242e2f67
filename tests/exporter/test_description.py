"""Descriptions of models from elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from hiddenstate_exporter.foreign.description import (
    DescriptionError,
    LanguageModelDescription,
    SentenceEncoderDescription,
    read_description,
)

LANGUAGE_MODEL = {
    "kind": "language_model",
    "cell": "gru",
    "embedding": "encoder.weight",
    "rnn": "rnn",
    "decoder": "decoder",
    "vocabulary": {"words": "vocab.txt"},
}
ENCODER = {
    "kind": "sentence_encoder",
    "cell": "lstm",
    "embedding": "emb",
    "rnn": "lstm",
    "pooling": "max",
    "tokenizer": "tokenizer.json",
}


def _read(folder: Path, content: dict[str, Any], **changes: Any) -> Any:
    path = folder / "model.json"
    path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not ...}), encoding="utf-8")
    return read_description(path)


def test_the_kind_decides_what_is_read(tmp_path: Path) -> None:
    language_model, encoder = _read(tmp_path, LANGUAGE_MODEL), _read(tmp_path, ENCODER)
    assert isinstance(language_model, LanguageModelDescription)
    assert (language_model.cell, language_model.decoder, language_model.eos) == ("gru", "decoder", "<eos>")
    assert isinstance(encoder, SentenceEncoderDescription)
    assert (encoder.pooling, encoder.max_seq_length, encoder.normalized) == ("max", 256, False)


@pytest.mark.parametrize(
    ("content", "changes", "problem"),
    [
        (LANGUAGE_MODEL, {"layers": 2}, "unknown field `layers`"),
        (LANGUAGE_MODEL, {"pooling": "mean"}, "unknown field `pooling`"),
        (LANGUAGE_MODEL, {"vocabulary": {"words": [], "lower": True}}, r"unknown field `lower` - at `\$.vocabulary`"),
        (LANGUAGE_MODEL, {"decoder": ...}, "missing required field `decoder`"),
        (LANGUAGE_MODEL, {"kind": ...}, "missing required field `kind`"),
        (LANGUAGE_MODEL, {"kind": "tagger"}, r"'tagger' - at `\$.kind`"),
        (LANGUAGE_MODEL, {"cell": "qrnn"}, r"'qrnn' - at `\$.cell`"),
        (LANGUAGE_MODEL, {"num_layers": 0}, r"`int` >= 1 - at `\$.num_layers`"),
        (LANGUAGE_MODEL, {"num_layers": "2"}, r"Expected `int \| null`, got `str` - at `\$.num_layers`"),
        (LANGUAGE_MODEL, {"div_value": 0}, r"`float` > 0.0 - at `\$.div_value`"),
        (LANGUAGE_MODEL, {"embedding": ""}, r"length >= 1 - at `\$.embedding`"),
        (LANGUAGE_MODEL, {"vocabulary": ...}, "give either tokenizer, .* or vocabulary"),
        (LANGUAGE_MODEL, {"tokenizer": "tokenizer.json"}, "give either tokenizer, .* or vocabulary"),
        (ENCODER, {"pooling": ...}, "missing required field `pooling`"),
        (ENCODER, {"pooling": "attention"}, "attention: names the two linear layers of pooling"),
        (ENCODER, {"attention": ["w1", "w2"]}, "attention: names the two linear layers of pooling"),
    ],
)
def test_a_field_that_is_wrong_is_named(
    tmp_path: Path, content: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DescriptionError, match=rf"model\.json: .*{problem}"):
        _read(tmp_path, content, **changes)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe{}", b"[" * 100_000, b'{"kind": "language_model\xff"}']
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(DescriptionError, match=r"model\.json: .") as error:
        read_description(tmp_path / "model.json")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match=r"model\.json: cannot be read: No such file"):
        read_description(tmp_path / "model.json")
