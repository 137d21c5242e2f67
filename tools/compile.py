"""Compiles the server's modules that have a .pxd beside them, in place: those that have changed since they last were.

    python -m tools.compile

HIDDENSTATE_COMPILE=0 removes the compiled modules, so that the server runs interpreted; 1 fails where something that
compiling needs is missing, where else the server runs interpreted.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from tools.compiled_modules import (
    DIRECTIVES,
    FOLDER,
    OPTIMIZATION,
    WARNINGS,
    changed,
    digest,
    module_name,
    remember,
    remove,
    remove_leftovers,
)

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "HIDDENSTATE_COMPILE"
INTERPRETED = "The server runs interpreted and takes more processor time for each request"

Wish = Literal["", "0", "1"]


class CannotCompileError(Exception):
    """Something that compiling needs is missing; says what to install."""


class CompilationError(Exception):
    """A module cannot be compiled; the compiler has said why."""


def wish() -> Wish:
    """Returns what HIDDENSTATE_COMPILE says; nothing, as where it is not set, is: compile if that is possible."""
    value = os.environ.get(VARIABLE, "")
    for known in get_args(Wish):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise SystemExit(f"{VARIABLE}={value}: not 0 (never), 1 (or fail) or nothing (if possible)")


def compile_changed(root: Path) -> None:
    """Compiles what has changed. Where that fails nothing stays compiled.

    Raises:
        CannotCompileError: something that compiling needs is missing.
        CompilationError: a module cannot be compiled.
    """
    remove_leftovers(root)
    due = changed(root)
    if not due:
        return
    digests = {source: digest(root, source) for source in due}  # before: who edits meanwhile has to compile again
    try:
        check_tools()
        print(f"Compiling modules of the server: {', '.join(source.stem for source in due)}", file=sys.stderr)
        remove(root, due)
        with contextlib.chdir(root):
            _build(due)
    except (CannotCompileError, CompilationError):
        remove(root)
        raise
    remember(root, digests)


def check_tools() -> None:
    """Finds out whether there is all that compiling needs.

    Raises:
        CannotCompileError: something is missing.
    """
    for package in ("Cython", "setuptools"):
        if find_spec(package) is None:
            raise CannotCompileError(f"install {package} beside {sys.executable} to compile it")
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if trouble := _trouble_with(compiler):
        packages = "a C compiler and the headers of C and Python (Debian: gcc libc6-dev python3-dev)"
        raise CannotCompileError(f"install {packages} to compile it; {compiler}: {trouble}")


def main() -> None:
    """Compiles what has changed in this repository, or says why not."""
    wanted = wish()
    if wanted == "0":
        remove(ROOT)
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else setuptools goes on with what it has begun
    try:
        compile_changed(ROOT)
    except CannotCompileError as error:
        if wanted == "1":
            raise SystemExit(f"{VARIABLE}=1: {error}") from None
        print(f"{INTERPRETED}: {error}", file=sys.stderr)
    except CompilationError as error:
        raise SystemExit(f"{error}. {VARIABLE}=0 runs the server interpreted.") from None


def _trouble_with(compiler: str) -> str | None:
    """Returns why a command does not compile what includes Python's headers; None if it does."""
    folders = {sysconfig.get_path(name) for name in ("include", "platinclude")}
    options = [*(f"-I{each}" for each in folders), "-c", "probe.c", "-o", "probe.o"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "probe.c").write_text("#include <Python.h>\n", encoding="ascii")
        command = [*shlex.split(compiler), *options]
        try:
            probe = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        except OSError as error:
            return error.strerror
        if (Path(folder) / "probe.o").exists():
            return None
    return next((line for line in probe.stderr.splitlines() if "error" in line), f"exit code {probe.returncode}")


def _build(due: Sequence[Path]) -> None:
    """Compiles modules in place, those of the current folder; what comes between lies in build/."""
    from Cython.Build import cythonize
    from Cython.Compiler.Errors import CompileError
    from setuptools import Distribution, Extension
    from setuptools.errors import BaseError, CCompilerError

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = [*(() if "CFLAGS" in os.environ else OPTIMIZATION), *WARNINGS]
    try:
        extensions = cythonize(
            [Extension(module_name(source), [str(source)], extra_compile_args=flags) for source in due],
            include_path=[str(FOLDER)],
            build_dir="build/cython",
            compiler_directives=DIRECTIVES,
            nthreads=cores,
            force=True,
            quiet=True,
        )
        attributes: dict[str, Any] = {"ext_modules": extensions, "package_dir": {"": str(FOLDER)}}
        command = Distribution(attributes).get_command_obj("build_ext")
        command.set_undefined_options("build")
        for name, value in {"inplace": True, "force": True, "parallel": cores, "build_temp": "build/temp"}.items():
            setattr(command, name, value)
        command.ensure_finalized()
        command.run()
    except (CompileError, BaseError, CCompilerError) as error:
        raise CompilationError(f"A module of the server cannot be compiled: {error}") from None


if __name__ == "__main__":
    main()
