"""Credentials that cannot be made: the argument and the file are named, and nothing that is secret."""

from pathlib import Path
from typing import Any

import pytest

from hiddenstate import tls_credentials

PEM = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("arguments", [{"ca": "nothere"}, {"cert": "nothere", "key": "nothere"}])
def test_a_file_that_is_not_there_is_told_with_its_argument(arguments: dict[str, str]) -> None:
    name = next(reversed(arguments))
    with pytest.raises(FileNotFoundError, match=rf"{name}: cannot be read: No such file or directory: 'nothere'"):
        tls_credentials(**arguments)


def test_a_folder_is_told_with_its_argument(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="ca: cannot be read: Is a directory"):
        tls_credentials(ca=tmp_path)


@pytest.mark.parametrize("content", [PEM, PEM.encode(), 5])
def test_what_is_in_a_file_is_not_taken_for_its_path_nor_shown(tmp_path: Path, content: Any) -> None:
    (tmp_path / "cert.pem").write_text(PEM)
    with pytest.raises(ValueError, match=r"^key: is no path; give that of a file with PEM, not what is in it$"):
        tls_credentials(cert=tmp_path / "cert.pem", key=content)
