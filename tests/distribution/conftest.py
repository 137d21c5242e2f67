"""Builds the distributions once, and installs the wheel into an environment that holds nothing else."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tools.compile import CannotCompileError, check_tools

REPOSITORY = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end and returns what it printed."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="session")
def can_compile() -> bool:
    """Whether there is a compiler here, and what it needs."""
    try:
        check_tools()
    except CannotCompileError:
        return False
    return True


@pytest.fixture(scope="session")
def distributions(can_compile: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that is built from it, compiled in the quickest way."""
    folder = tmp_path_factory.mktemp("dist")
    environment = {"HIDDENSTATE_COMPILE": str(int(can_compile)), "CFLAGS": "-O0"}
    built = run(sys.executable, "-m", "build", "--outdir", folder, REPOSITORY, cwd=folder, **environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="session")
def wheel_of_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in which nothing is compiled, built where compiled modules may lie beside their sources."""
    folder = tmp_path_factory.mktemp("dist-of-sources")
    command = (sys.executable, "-m", "build", "--wheel", "--outdir", folder, REPOSITORY)
    built = run(*command, cwd=folder, HIDDENSTATE_COMPILE="0")
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    """The wheel."""
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def thin_client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment into which the wheel was installed without extras."""
    folder = tmp_path_factory.mktemp("thin-client") / "venv"
    venv.create(folder, symlinks=True)  # without pip: what is there is what the wheel brought
    python = folder / "bin" / "python"
    installed = run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return folder / "bin"
