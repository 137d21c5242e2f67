import shutil
from pathlib import Path

import pytest

from distribution.conftest import REPOSITORY, run

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def test_help_is_the_default_and_lists_the_targets() -> None:
    shown = run("make", cwd=REPOSITORY)
    assert shown.returncode == 0, shown.stderr
    assert {"serve", "test", "check", "proto", "format", "dist", "image", "clean"} <= set(shown.stdout.split())


@pytest.mark.parametrize("target", ["serve", "test"])
def test_an_old_python_is_refused_before_anything_is_made(target: str, tmp_path: Path) -> None:
    python = tmp_path / "python3.9"
    python.write_text('#!/bin/sh\nif [ "$1" = -V ]; then echo "Python 3.9.2"; else exit 1; fi\n')
    python.chmod(0o755)
    refused = run("make", target, f"PYTHON={python}", f"VENV={tmp_path / 'venv'}", cwd=REPOSITORY)
    assert refused.returncode == 2
    assert "needs Python 3.11 or newer" in refused.stderr
    assert "Python 3.9.2" in refused.stderr
    assert f"make {target} PYTHON=" in refused.stderr
    assert not (tmp_path / "venv").exists()
