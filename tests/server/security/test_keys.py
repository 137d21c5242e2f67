"""Files of keys, and the command that writes them."""

import errno
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hiddenstate.cli import main
from hiddenstate_server.errors import ConfigError
from hiddenstate_server.security.keys import make_key, read_keys


def keys(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", *arguments, "--keys-file", str(path)])


def test_a_key_that_was_added_is_known_until_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    secret = keys(path, "add", "alice", "--scope", "predict", "--scope", "encode").output.strip()
    assert keys(path, "add", "bob", "--scope", "manage").exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret.startswith("hs_alice.")
    assert secret.partition(".")[2] not in path.read_text(encoding="ascii")
    found = read_keys(path).find(secret)
    assert found
    assert (found.name, sorted(found.scopes)) == ("alice", ["encode", "predict"])
    assert keys(path, "list").output == "alice\tpredict,encode\nbob\tmanage\n"
    assert keys(path, "remove", "alice").exit_code == 0
    assert read_keys(path).find(secret) is None
    assert [*read_keys(path).by_name] == ["bob"]
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]


def test_no_two_keys_are_alike_and_none_is_known_by_its_name_or_hash(tmp_path: Path) -> None:
    secrets = {make_key("a", frozenset({"predict"}))[0] for _ in range(20)}
    assert len(secrets) == 20
    path = tmp_path / "keys"
    secret = keys(path, "add", "a", "--scope", "predict").output.strip()
    known = read_keys(path)
    digest = known.by_name["a"].digest
    for guess in ("", "a", "hs_a", "hs_a.", digest, f"hs_a.{digest}", secret[:-1], secret + "x", secret.swapcase()):
        assert known.find(guess) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "two words", "--scope", "predict"), "name: 'two words' is not of 1 to 64 letters"),
        (("add", "a/b", "--scope", "predict"), "name: 'a/b' is not of 1 to 64 letters"),
        (("add", "old", "--scope", "predict"), "has a key old already"),
        (("add", "new", "--scope", "dance"), "'dance' is not one of 'predict', 'encode', 'manage'"),
        (("add", "new"), "Missing option '--scope'"),
        (("remove", "nobody"), "has no key nobody"),
    ],
)
def test_what_cannot_be_done_is_told(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    path = tmp_path / "keys"
    keys(path, "add", "old", "--scope", "predict")
    before = path.read_text(encoding="ascii")
    result = keys(path, *arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert path.read_text(encoding="ascii") == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alice predict\n", "line 1: is not NAME SCOPES SHA-256; `hiddenstate keys add`"),
        (f"# names\n\nalice dance {'a' * 64}\n", "line 3: scopes: 'dance' is none of predict, encode, manage"),
        (f"alice predict {'a' * 63}\n", "line 1: hash: is not 64"),
        (f"a/b predict {'a' * 64}\n", "line 1: name: 'a/b' is not of"),
        (f"a predict {'a' * 64}\na encode {'b' * 64}\n", "line 2: there is a key a already"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="ascii")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=f"--keys-file {path}: {message}"):
        read_keys(path)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys(path, "add", "a", "--scope", "predict")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"--keys-file .*: its mode is 0644, so that others may read"):
        read_keys(path)
    path.chmod(0o640)
    assert [*read_keys(path).by_name] == ["a"]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is no text"):
        read_keys(path)


def test_a_full_disk_leaves_the_keys_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    keys(path, "add", "alice", "--scope", "predict")
    before = path.read_bytes()

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", no_room)
    ended = keys(path, "remove", "alice")
    assert ended.exit_code == 1
    assert "cannot be written, and is as it was: No space left on device" in ended.output
    assert path.read_bytes() == before
