"""Compiled modules are noticed when they are not of the sources that are there, and are compiled again."""

import importlib.machinery
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distribution.conftest import REPOSITORY, run
from tools.compile import CannotCompileError, check_tools, compile_changed
from tools.compiled_modules import changed, digest, extension, remember, remove, sources, stale

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
TALLY, FAMILY, OTHER = (Path(f"server/engine/{name}.py") for name in ("tally", "family", "other"))
FILES = {
    "tally.py": "class Tally:\n    def add(self, amount: float) -> None:\n        self.value = amount\n",
    "tally.pxd": "cdef class Tally:\n    cdef public double value\n    cpdef add(self, double amount)\n",
    "family.py": "from engine.tally import Tally\n\nclass Family(Tally):\n    pass\n",
    "family.pxd": "from engine.tally cimport (\n    Tally,\n)\n\ncdef class Family(Tally):\n    cdef public int size\n",
    "other.py": "def double(number: int) -> int:\n    return 2 * number\n",
    "other.pxd": "cpdef int double(int number)\n",
    "plain.py": "",
    "__init__.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository whose server is a package `engine`: three modules that can be compiled, and one that cannot."""
    folder = tmp_path / "server" / "engine"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def compiled(root: Path) -> Path:
    """The same, as it is when all has been compiled."""
    for source in sources(root):
        (root / source).with_suffix(SUFFIX).write_bytes(source.stem.encode())
    remember(root, {source: digest(root, source) for source in sources(root)})
    return root


@pytest.fixture
def compiler(can_compile: bool) -> None:
    """Skips a test where there is none."""
    if not can_compile:
        pytest.skip("there is no C compiler, or no headers")


def compile_in_a_process(root: Path) -> subprocess.CompletedProcess[str]:
    """Compiles what has changed; in a process of its own, as Cython remembers folders by their relative paths."""
    code = """
import sys
from pathlib import Path
from tools.compile import compile_changed
compile_changed(Path(sys.argv[1]))
"""
    return run(sys.executable, "-c", code, root, cwd=REPOSITORY)


def append(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def test_those_with_a_declaration_beside_them_can_be_compiled(root: Path) -> None:
    assert sources(root) == [FAMILY, OTHER, TALLY]


def test_nothing_is_stale_where_nothing_is_compiled(root: Path) -> None:
    assert stale(root) == []
    assert changed(root) == [FAMILY, OTHER, TALLY]


def test_what_is_as_it_was_compiled_is_fresh_whatever_its_time(compiled: Path) -> None:
    (compiled / TALLY).touch()
    assert stale(compiled) == changed(compiled) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: append(root / TALLY), [TALLY]),
        (lambda root: append(root / OTHER.with_suffix(".pxd")), [OTHER]),
        (lambda root: append(root / TALLY.with_suffix(".pxd")), [FAMILY, TALLY]),  # the struct that both have
        (lambda root: append(root / TALLY.with_suffix(SUFFIX)), [TALLY]),  # compiled by other means
        (lambda root: (root / TALLY.with_suffix(SUFFIX)).unlink(), [TALLY]),  # all are compiled or none is
        (lambda root: (root / OTHER.with_suffix(".pxd")).unlink(), [OTHER]),  # Python imports it all the same
        (lambda root: (root / "build/compiled.json").unlink(), [FAMILY, OTHER, TALLY]),
        (lambda root: (root / "build/compiled.json").write_text("{"), [FAMILY, OTHER, TALLY]),  # a full disk
    ],
)
def test_what_is_no_longer_as_it_was_compiled_is_stale(
    compiled: Path, change: Callable[[Path], None], expected: list[Path]
) -> None:
    change(compiled)
    assert stale(compiled) == expected


def test_compiled_modules_of_another_python_count_for_nothing(compiled: Path) -> None:
    (compiled / TALLY).with_suffix(".cpython-300-x86_64-linux-gnu.so").touch()
    (compiled / TALLY).with_name("plain.cpython-300-x86_64-linux-gnu.so").touch()
    assert stale(compiled) == []


def test_nothing_compiled_is_left_after_a_removal(compiled: Path) -> None:
    (compiled / OTHER.with_suffix(".pxd")).unlink()
    remove(compiled)
    assert list(compiled.rglob("*.so")) == []


@pytest.mark.usefixtures("compiler")
def test_what_has_changed_is_compiled_and_nothing_else(root: Path) -> None:
    assert compile_in_a_process(root).returncode == 0
    assert stale(root) == changed(root) == []
    assert _types_of_methods(root) == ["cython_function_or_method"] * 2
    before = {source: _time(root, source) for source in sources(root)}
    append(root / OTHER)
    assert compile_in_a_process(root).returncode == 0
    assert stale(root) == changed(root) == []
    assert [source for source in before if _time(root, source) != before[source]] == [OTHER]


@pytest.mark.usefixtures("compiler")
def test_what_was_compiled_and_lost_its_declaration_is_removed(compiled: Path) -> None:
    (compiled / OTHER.with_suffix(".pxd")).unlink()
    compile_changed(compiled)
    assert extension(compiled, OTHER) is None
    assert stale(compiled) == []


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ("cpdef nonsense(", "Error compiling Cython file"),
        ('cdef extern from "no_such_header.h":\n    pass\n', "no_such_header.h"),  # what only the C compiler finds
    ],
)
def test_nothing_stays_compiled_where_one_module_cannot_be(compiled: Path, declaration: str, said: str) -> None:
    (compiled / OTHER.with_suffix(".pxd")).write_text(declaration, encoding="utf-8")
    failed = compile_in_a_process(compiled)
    assert said in failed.stderr
    assert "CompilationError: " in failed.stderr
    assert list(compiled.rglob("*.so")) == []


@pytest.mark.usefixtures("compiler")
def test_who_interrupts_it_waits_for_no_other_module_and_sees_no_traceback(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    (root / "tools").mkdir()
    for name in ("compile.py", "compiled_modules.py"):
        (root / "tools" / name).write_bytes((REPOSITORY / "tools" / name).read_bytes())
    interrupting = root / "cc"
    interrupting.write_text('#!/bin/sh\ncase "$*" in *probe.c*) exec touch probe.o ;; esac\nkill -INT $PPID\n')
    interrupting.chmod(0o755)
    monkeypatch.setenv("CC", str(interrupting))
    interrupted = run(sys.executable, "-m", "tools.compile", cwd=root)
    assert interrupted.returncode == -signal.SIGINT
    assert interrupted.stderr.splitlines() == ["Compiling modules of the server: family, other, tally"]


@pytest.mark.parametrize("command", ["false", "no-such-compiler"])
def test_a_compiler_that_is_missing_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, command: str, compiled: Path
) -> None:
    monkeypatch.setenv("CC", command)
    append(compiled / TALLY)
    with pytest.raises(CannotCompileError, match=rf"install .*gcc libc6-dev python3-dev.*; {command}: "):
        compile_changed(compiled)
    assert list(compiled.rglob("*.so")) == []


def test_python_without_its_headers_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, can_compile: bool, tmp_path: Path
) -> None:
    if not can_compile:
        pytest.skip("there is no C compiler")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.delenv("CPATH", raising=False)
    with pytest.raises(CannotCompileError, match=r"Python\.h"):
        check_tools()


def test_the_tests_refuse_stale_modules_in_one_line(compiled: Path) -> None:
    append(compiled / TALLY)
    for name in ("tests", "tools"):
        (compiled / name).mkdir()
    for name in ("tests/conftest.py", "tests/interpreted.py", "tools/compiled_modules.py", "pyproject.toml"):
        (compiled / name).write_bytes((REPOSITORY / name).read_bytes())
    (compiled / "tests" / "test_nothing.py").write_text("def test_nothing() -> None: ...\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "tests"]
    refused = run(*command, cwd=compiled, HIDDENSTATE_INTERPRETED="")
    assert refused.returncode != 0
    assert (refused.stdout + refused.stderr).splitlines() == [
        "Compiled modules are not of the sources that are here: run `make compile` (tally)"
    ]
    assert run(*command, cwd=compiled, HIDDENSTATE_INTERPRETED="1").returncode == 0


def _time(root: Path, source: Path) -> int:
    path = extension(root, source)
    assert path is not None
    return path.stat().st_mtime_ns


def _types_of_methods(root: Path) -> list[str]:
    code = """
import json
from engine.family import Family
from engine.other import double
print(json.dumps([type(each).__name__ for each in (Family.add, double)]))
"""
    shown = run(sys.executable, "-c", code, cwd=root / "server")
    assert shown.returncode == 0, shown.stderr
    names: list[str] = json.loads(shown.stdout)
    return names
