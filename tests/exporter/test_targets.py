"""The teacher's vectors are computed once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hiddenstate_exporter.training import targets
from hiddenstate_exporter.training.targets import teacher_vectors
from hiddenstate_exporter.training.teacher import TeacherError
from teachers import WordTeacher, sentences

HALF = 1e-3  # what float16 costs a value of at most 1


def test_vectors_come_in_the_order_of_the_sentences(tmp_path: Path) -> None:
    teacher, chosen = WordTeacher(), sentences(50)
    vectors = teacher_vectors(teacher, [*chosen, chosen[7]], tmp_path)
    assert vectors.dtype == np.float16
    assert np.abs(vectors - teacher.embed([*chosen, chosen[7]])).max() < HALF


def test_only_new_sentences_are_asked_for(tmp_path: Path) -> None:
    first = teacher_vectors(WordTeacher(), sentences(30), tmp_path)
    again = WordTeacher()
    vectors = teacher_vectors(again, sentences(50)[::-1], tmp_path)
    assert sorted(again.asked) == sorted(sentences(50)[30:])
    assert np.array_equal(vectors[::-1][:30], first)


def test_another_teacher_is_asked_for_all(tmp_path: Path) -> None:
    first = teacher_vectors(WordTeacher(seed=0), sentences(30), tmp_path)
    other = WordTeacher(seed=1)
    assert not np.array_equal(teacher_vectors(other, sentences(30), tmp_path), first)
    assert len(other.asked) == 30


def test_ctrl_c_loses_nothing_that_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "CHUNK", 10)

    class Interrupted(WordTeacher):
        def embed(self, sentences: Sequence[str]) -> NDArray[np.float32]:
            if len(self.asked) == 20:
                raise KeyboardInterrupt
            return super().embed(sentences)

    with pytest.raises(KeyboardInterrupt):
        teacher_vectors(Interrupted(), sentences(50), tmp_path)
    again = WordTeacher()
    teacher_vectors(again, sentences(50), tmp_path)
    assert len(again.asked) == 30


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    teacher_vectors(WordTeacher(), sentences(30), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(TeacherError, match=rf"{file.name}: is damaged .*; delete it to compute it anew"):
        teacher_vectors(WordTeacher(), sentences(30), tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the folder's place")
    with pytest.raises(TeacherError, match=r"run.*: the teacher's vectors cannot be kept"):
        teacher_vectors(WordTeacher(), sentences(30), tmp_path / "run")
