"""What must not be anywhere in the repository."""

import shutil

import pytest

from distribution.conftest import REPOSITORY, run

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not (REPOSITORY / ".git").exists(), reason="this is no git checkout"
)

# Each with a class of one character, so that the patterns do not find themselves.
ABSOLUTE_PATH = r"(^|[^[:alnum:]._~}-])[/](home|root|tmp|work|Users)/[[:alnum:]]"
REGISTRY_HOST = r"pypi[.]org|pythonhosted[.]org|download[.]pytorch|docker[.]io|ghcr[.]io|nvcr[.]io|quay[.]io"


@pytest.mark.parametrize("pattern", [ABSOLUTE_PATH, REGISTRY_HOST])
def test_no_file_names_a_folder_of_one_machine_or_a_package_registry(pattern: str) -> None:
    found = run("git", "grep", "-nIE", "--untracked", pattern, cwd=REPOSITORY)
    assert (found.returncode, found.stdout) == (1, ""), found.stderr  # 1: nothing found; 128: git failed


@pytest.mark.parametrize(
    ("pattern", "line"),
    [(ABSOLUTE_PATH, 'open("/' + 'tmp/x")'), (ABSOLUTE_PATH, "/" + "root/x"), (REGISTRY_HOST, "https://pypi" + ".org")],
)
def test_the_patterns_find_what_they_are_for(pattern: str, line: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("patterns")
    (folder / "file").write_text(line + "\n")
    assert run("git", "grep", "--no-index", "-qE", pattern, "--", "file", cwd=folder).returncode == 0
