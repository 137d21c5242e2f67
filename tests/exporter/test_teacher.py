"""Teachers from folders and packages, with a tiny BERT of random weights."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hiddenstate_exporter.training.teacher import SentenceTransformerTeacher, TeacherError, load_teacher
from teachers import WORDS, sentences, write_sentence_transformer

SAME = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_transformer(tmp_path_factory.mktemp("teacher") / "x")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> SentenceTransformerTeacher:
    return load_teacher(str(folder))


def test_a_folder_makes_a_teacher_named_without_its_path(teacher: SentenceTransformerTeacher) -> None:
    assert (teacher.name, teacher.dimension, teacher.max_seq_length) == ("model", 16, 32)


def test_vectors_have_length_one_and_do_not_depend_on_neighbours(teacher: SentenceTransformerTeacher) -> None:
    chosen = sentences(40)
    vectors = teacher.embed(chosen)
    assert vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < SAME
    assert np.abs(vectors[5] - teacher.embed([chosen[5]])[0]).max() < SAME


def test_each_token_gets_the_vector_of_a_sentence_of_it_alone(teacher: SentenceTransformerTeacher) -> None:
    vectors = teacher.embed_tokens()
    assert vectors.shape == (teacher.tokenizer.get_vocab_size(), 16)
    for word in WORDS:
        assert np.abs(vectors[teacher.tokenizer.token_to_id(word)] - teacher.embed([word])[0]).max() < SAME


def test_the_student_gets_the_tokens_without_marks_cutting_or_padding(teacher: SentenceTransformerTeacher) -> None:
    assert teacher.tokenizer.encode("The cats").tokens == ["the", "cat", "##s"]
    assert len(teacher.tokenizer.encode("cat " * 100).ids) == 100
    assert [len(e.ids) for e in teacher.tokenizer.encode_batch(["cat", "cat dog"])] == [1, 2]


def test_the_checksum_tells_teachers_and_their_precision_apart(folder: Path, tmp_path: Path) -> None:
    same = load_teacher(str(folder))
    assert same.checksum == load_teacher(str(folder)).checksum
    half = load_teacher(str(folder), "bfloat16")
    assert half.checksum != same.checksum
    assert np.abs(half.embed(sentences(5)) - same.embed(sentences(5))).max() < 0.05


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_another_folder_is_refused_with_what_to_give(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TeacherError, match=rf"{name}: not a sentence-transformers folder .*package:NAME"):
        load_teacher(str(tmp_path / name))


def test_a_damaged_model_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(TeacherError, match="cannot be loaded as a sentence-transformers model"):
        load_teacher(str(tmp_path))


def test_a_missing_package_is_refused_with_the_extra_that_has_one() -> None:
    with pytest.raises(TeacherError, match=r"'no-such-teacher' is not installed; .*pip install 'hiddenstate\[data\]'"):
        load_teacher("package:no-such-teacher")
    with pytest.raises(TeacherError, match="is not installed"):
        load_teacher("package:")


def test_a_package_without_a_model_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"package 'click' carries no sentence-transformers model"):
        load_teacher("package:click")


def test_a_package_that_carries_a_model_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution(importlib.metadata.Distribution):
        """An installed package whose files are the folder's."""

        def read_text(self, filename: str) -> str | None:
            if filename == "METADATA":
                return "Name: tiny-teacher\nVersion: 1.2\n"
            return "".join(f"{path},,\n" for path in self._paths()) if filename == "RECORD" else None

        def locate_file(self, path: object) -> Path:
            return folder / str(path)

        def _paths(self) -> Iterator[Path]:
            return (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    teacher = load_teacher("package:tiny-teacher")
    assert (teacher.name, teacher.dimension) == ("tiny-teacher 1.2", 16)
