"""A server whose disk is full goes on with what it serves, says so once, and takes what comes when there is room."""

import subprocess
from pathlib import Path

import pytest

from chaos.full_disk import full, publish_on_a_full_disk, small_disk, too_large
from serve_process import COMMAND, WAIT_S, failed_serve

_FULL = Path("/dev/full")  # takes nothing: "No space left on device"


def test_a_version_that_breaks_off_for_want_of_room_comes_later(tmp_path: Path) -> None:
    (line,) = publish_on_a_full_disk(tmp_path / "store", tmp_path / "cache", too_large)
    assert f"--models-cache {tmp_path / 'cache'}: has no room for" in line
    assert "(File too large): free some" in line


def test_a_version_that_has_no_room_on_its_disk_comes_later(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    try:
        with small_disk(tmp_path / "cache") as cache:
            (line,) = publish_on_a_full_disk(tmp_path / "store", cache, full)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    assert "(No space left on device): free some" in line


@pytest.mark.skipif(not _FULL.exists(), reason="there is no /dev/full here")
def test_a_server_whose_standard_output_has_no_room_serves_on(models_dir: Path) -> None:
    listen = ("--listen", "127.0.0.1:0", "--metrics", "off", "--models", str(models_dir))
    with (
        _FULL.open("w") as out,
        subprocess.Popen([*COMMAND, *listen], stdout=out, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stderr
            line = next(line for line in process.stderr if "standard output takes nothing" in line)
            assert "No space left on device" in line
            assert "Serving" in line  # where, too
            process.terminate()
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()


def test_a_server_that_cannot_keep_its_models_does_not_start(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    elsewhere = ("--listen", "127.0.0.1:0", "--metrics", "off")
    ended = failed_serve(*elsewhere, "--models", f"file://{models_dir}", "--models-cache", str(tmp_path / "file"))
    assert ended.returncode == 1
    assert "cannot be read: Not a directory" in ended.stderr
    assert "Traceback" not in ended.stderr
