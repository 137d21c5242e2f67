"""A run's text files on a full disk."""

import os
from pathlib import Path

import pytest

from hiddenstate_exporter.training.run_config import write_tables
from hiddenstate_exporter.training.run_dir import RunDir


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reaches the disk."""

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.usefixtures("full_disk")
def test_a_run_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[model]\n")
    with pytest.raises(OSError, match="No space left"):
        write_tables(path, {"model": {"hidden_size": 16}})
    assert path.read_text() == "[model]\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("full_disk")
def test_a_log_that_cannot_be_trimmed_stays_whole(tmp_path: Path) -> None:
    files = RunDir(tmp_path)
    lines = '{"step": 1}\n{"step": 2}\n'
    files.log.write_text(lines)
    with pytest.raises(OSError, match="No space left"):
        files.trim_log(1)
    assert files.log.read_text() == lines
    assert list(tmp_path.iterdir()) == [files.log]


def test_validations_that_will_be_repeated_are_taken_out(tmp_path: Path) -> None:
    files = RunDir(tmp_path)
    files.log.write_text('{"step": 1}\n{"step": 2}\n{"st')
    files.trim_log(1)
    assert files.log.read_text() == '{"step": 1}\n'
