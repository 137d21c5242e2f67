"""Which modules of the server are compiled, and of what.

A module that has a .pxd beside it can be compiled, and runs interpreted too. All are compiled or none is: they reach
into each other's C structs. Python takes a compiled module where there is one, however much its source has changed
since. So a record is kept of what each was made of: digests and no times, which a checkout changes.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

FOLDER = Path("server")
# Annotations say what callers pass, not C types.
DIRECTIVES = {"language_level": 3, "annotation_typing": False, "binding": True, "embedsignature": False}
OPTIMIZATION = ("-O2", "-g0")  # where CFLAGS does not say otherwise
# Pointers to functions of another signature are errors from gcc 14 on; the others are of what Cython always writes.
WARNINGS = ("-Werror=incompatible-pointer-types", "-Wno-array-bounds", "-Wno-unused-function")

_RECORD = Path("build/compiled.json")
_CIMPORT = re.compile(r"^.*\bcimport\b(?:\s*\([^)]*\)|.*)", re.MULTILINE)


def sources(root: Path) -> list[Path]:
    """Returns the .py of each module that can be compiled, relative to the repository."""
    return sorted(path.relative_to(root).with_suffix(".py") for path in (root / FOLDER).rglob("*.pxd"))


def module_name(source: Path) -> str:
    """Returns the name by which a source is imported."""
    return ".".join(source.relative_to(FOLDER).with_suffix("").parts)


def extension(root: Path, source: Path) -> Path | None:
    """Returns the compiled module that Python would import in place of a source."""
    paths = (root / source.with_suffix(suffix) for suffix in EXTENSION_SUFFIXES)
    return next((path for path in paths if path.exists()), None)


def changed(root: Path) -> list[Path]:
    """Returns the sources that are not compiled as they are now."""
    record = _read(root)
    return [source for source in sources(root) if not _is_fresh(root, source, record)]


def stale(root: Path) -> list[Path]:
    """Returns the sources that Python would not run as they are now; none where nothing is compiled."""
    compiled = _compiled(root)
    return sorted({*changed(root), *compiled - set(sources(root))}) if compiled else []


def digest(root: Path, source: Path) -> str:
    """Returns a digest of all that a compiled module is made of."""
    options = repr((DIRECTIVES, OPTIMIZATION, WARNINGS)).encode()
    return _sha256(options, *(path.read_bytes() for path in [root / source, *_declarations(root, source)]))


def remember(root: Path, digests: Mapping[Path, str]) -> None:
    """Records of what sources modules have just been compiled."""
    record = _read(root)
    for source, made_of in digests.items():
        if compiled := extension(root, source):
            record[str(compiled.relative_to(root))] = _sealed(made_of, compiled)
    (root / _RECORD).parent.mkdir(exist_ok=True)
    (root / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def remove(root: Path, unwanted: Iterable[Path] | None = None) -> None:
    """Removes the compiled modules of these sources, or all: the server then runs them interpreted."""
    for source in _compiled(root) if unwanted is None else unwanted:
        while path := extension(root, source):
            path.unlink()


def remove_leftovers(root: Path) -> None:
    """Removes compiled modules whose .pxd is gone."""
    remove(root, _compiled(root) - set(sources(root)))


def _compiled(root: Path) -> set[Path]:
    """Returns the sources in whose place this Python would import a compiled module."""
    paths = {path.with_name(path.name.partition(".")[0] + ".py") for path in (root / FOLDER).rglob("*.so")}
    return {path.relative_to(root) for path in paths if extension(root, path.relative_to(root))}


def _read(root: Path) -> dict[str, str]:
    try:
        record: dict[str, str] = json.loads((root / _RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # none yet, or none that was written to its end
        return {}
    return record


def _is_fresh(root: Path, source: Path, record: Mapping[str, str]) -> bool:
    compiled = extension(root, source)
    if compiled is None:
        return False
    return record.get(str(compiled.relative_to(root))) == _sealed(digest(root, source), compiled)


def _sealed(made_of: str, compiled: Path) -> str:
    """Returns a digest that another compilation's module would not have, as one that was made by other means."""
    return _sha256(made_of.encode(), compiled.read_bytes())


def _sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _declarations(root: Path, source: Path) -> list[Path]:
    """Returns a module's .pxd and those that it cimports from, and so on: a changed struct changes all who use it."""
    by_stem: dict[str, set[Path]] = {}
    for each in sources(root):
        by_stem.setdefault(each.stem, set()).add(root / each.with_suffix(".pxd"))
    found, left = set(), {root / source.with_suffix(".pxd")}
    while left:
        path = left.pop()
        found.add(path)
        words = set(re.findall(r"\w+", " ".join(_CIMPORT.findall(path.read_text(encoding="utf-8")))))
        left |= set().union(*(by_stem[word] for word in words & by_stem.keys())) - found
    return sorted(found)
