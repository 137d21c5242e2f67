import errno
import stat
from pathlib import Path

import pytest

from hiddenstate_exporter.publishing.publication import (
    PublicationError,
    check_target,
    next_version,
    served_instead,
    staged,
)


def _write(folder: Path, content: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text(content)


def _write_model(folder: Path, policy: str) -> None:
    folder.mkdir(parents=True)
    (folder / "bundle.json").touch()
    if policy:
        (folder.parent / "repository.toml").write_text(policy)


def _fail(folder: Path, error: Exception) -> None:
    _write(folder, "half")
    raise error


def test_the_first_version_is_1(tmp_path: Path) -> None:
    assert next_version(tmp_path / "model") == "1"


def test_the_next_version_follows_the_highest_number(tmp_path: Path) -> None:
    for name in ("2", "10", "nightly", ".3-x.partial", "v99"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == "11"


def test_a_folder_appears_only_once_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "model" / "1"
    with staged(target) as folder:
        (folder / "file").write_text("content")
        assert folder.parent == target.parent
        assert folder.name.startswith(".")  # no server takes it for a version
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_others_may_read_what_is_published(tmp_path: Path) -> None:
    with staged(tmp_path / "model" / "1"):
        pass
    assert stat.S_IMODE((tmp_path / "model" / "1").stat().st_mode) == 0o755


def test_nothing_is_left_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no"), staged(tmp_path / "new" / "model" / "1") as folder:
        _fail(folder, RuntimeError("no"))
    assert not list(tmp_path.iterdir())


def test_folders_that_were_there_before_stay_when_the_work_fails(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "model" / "1"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not list((tmp_path / "model").iterdir())


def test_a_published_version_is_never_changed(tmp_path: Path) -> None:
    target = tmp_path / "model" / "1"
    target.mkdir(parents=True)
    with pytest.raises(PublicationError, match="exists; published versions are never changed"), staged(target):
        pytest.fail("must not begin")
    assert not list(target.iterdir())


def test_whoever_is_second_does_not_overwrite_the_first(tmp_path: Path) -> None:
    target = tmp_path / "model" / "1"
    with pytest.raises(PublicationError, match="made by somebody else"), staged(target):
        _write(target, "first")
    assert (target / "file").read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("there", "policy", "version", "served"),
    [
        ((), "", "nightly", []),
        (("1", "2"), "", "3", []),
        (("1", "2"), "", "2024.1", []),
        (("1", "2"), "", "nightly", ["2"]),
        (("1", "2"), "", "1.5", ["2"]),
        (("1", "2"), "", "v3", ["2"]),
        (("1", "2"), "versions = { latest = 2 }", "v3", ["1", "2"]),
        (("1", "2"), "versions = { latest = 3 }", "v3", []),
        (("1", "2"), 'versions = "all"', "v3", []),
        (("1", "2"), '[labels]\ncanary = "nightly"', "nightly", []),
        (("1", "2"), 'versions = ["1"]', "3", ["1"]),
        (("1", "2"), 'default = "9"', "3", []),
    ],
)
def test_the_versions_that_servers_take_in_place_of_a_new_one_are_theirs(
    tmp_path: Path, there: tuple[str, ...], policy: str, version: str, served: list[str]
) -> None:
    for name in there:
        _write_model(tmp_path / "model" / name, policy)
    assert served_instead(tmp_path / "model" / version) == served


def test_a_version_that_is_a_label_already_is_refused(tmp_path: Path) -> None:
    _write_model(tmp_path / "model" / "1", '[labels]\nstable = "1"')
    with pytest.raises(PublicationError, match=r"repository\.toml has a label of that name, .* another --version$"):
        check_target(tmp_path / "model" / "stable")
    check_target(tmp_path / "model" / "2")


@pytest.mark.parametrize(("name", "version"), [("a b", "1"), (".hidden", "1"), ("model", "-1"), ("model", "1:2")])
def test_names_that_are_not_safe_in_paths_and_metrics_are_refused(tmp_path: Path, name: str, version: str) -> None:
    with pytest.raises(PublicationError, match="cannot be a model's"), staged(tmp_path / name / version):
        pytest.fail("must not begin")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    with pytest.raises(PublicationError, match="the disk is full"), staged(tmp_path / "model" / "1") as folder:
        _fail(folder, OSError(number, "No space left on device"))
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    message = r"model: cannot be made: (File exists|Not a directory)"
    with pytest.raises(PublicationError, match=message), staged(tmp_path / "model" / "1"):
        pytest.fail("must not begin")
