import json
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from distribution.conftest import REPOSITORY, run
from tools.compiled_modules import module_name, sources

pytestmark = [
    pytest.mark.package_index,
    pytest.mark.timeout(600),  # the first of them fetches packages
]

PACKAGES = {
    "hiddenstate": REPOSITORY / "client/hiddenstate",
    "hiddenstate_server": REPOSITORY / "server/hiddenstate_server",
    "hiddenstate_exporter": REPOSITORY / "exporter/hiddenstate_exporter",
}


COMPILED = {
    f"{source.relative_to('server').with_suffix('')}{sysconfig.get_config_var('EXT_SUFFIX')}"
    for source in sources(REPOSITORY)
}


def test_the_wheel_holds_the_three_packages_and_where_the_command_begins_and_nothing_else(
    wheel: Path, can_compile: bool
) -> None:
    assert _contents(wheel) == _sources() | (COMPILED if can_compile else set())
    assert len(COMPILED) > 0


def test_a_wheel_in_which_nothing_is_compiled_is_one_for_every_machine(wheel_of_sources: Path) -> None:
    assert wheel_of_sources.name.endswith("-py3-none-any.whl")
    assert _contents(wheel_of_sources) == _sources()


def test_a_compiled_wheel_is_for_this_python_and_runs_compiled(wheel: Path, can_compile: bool, tmp_path: Path) -> None:
    if not can_compile:
        pytest.skip("there is no C compiler, or no headers")
    _, _, _, tags = parse_wheel_filename(wheel.name)
    assert tags <= set(sys_tags())
    assert {tag.abi for tag in tags} == {f"cp{sys.version_info.major}{sys.version_info.minor}"}
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from importlib import import_module
from hiddenstate_server.engine_build import engine
for name in sys.argv[2:]:
    print(import_module(name).__file__.removeprefix(sys.argv[1] + "/"))
print(engine())
"""
    names = [module_name(source) for source in sources(REPOSITORY)]
    imported = run(sys.executable, "-c", code, tmp_path, *names, cwd=tmp_path)
    assert imported.returncode == 0, imported.stderr
    *files, engine = imported.stdout.split()
    assert (set(files), engine) == (COMPILED, "compiled")


def test_each_package_says_that_it_is_typed(wheel: Path) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(_names(wheel))


def test_the_licence_travels_with_the_wheel(wheel: Path) -> None:
    (name,) = (name for name in _names(wheel) if name.endswith("/licenses/LICENSE"))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(name) == (REPOSITORY / "LICENSE").read_bytes()


def test_the_source_distribution_holds_no_models_tests_or_runs_and_nothing_compiled(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [PurePosixPath(each.name) for each in archive.getmembers() if each.isfile()]
    folders = {name.parts[1] for name in names}
    files = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", ".gitignore"}
    assert folders == {"client", "server", "exporter", "proto", "tools"} | files
    assert {name.suffix for name in names} & {".so", ".c"} == set()


def test_nothing_that_only_an_extra_needs_is_installed(wheel: Path, thin_client: Path) -> None:
    requirements = _requirements(wheel)
    always = {canonicalize_name(each.name) for each in requirements if each.marker is None}
    extras = {canonicalize_name(each.name) for each in requirements} - always - {"hiddenstate"}
    assert {"torch", "onnxruntime", "tokenizers"} <= extras  # else the next line would say nothing
    assert _installed(thin_client) & extras == set()
    assert _installed(thin_client) >= always | {"hiddenstate"}


def test_import_loads_grpc_and_protobuf_only(thin_client: Path) -> None:
    code = """
import sys
before = set(sys.modules)
import hiddenstate
import json
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)))
"""
    loaded = {name for name in _python(thin_client, code) if "cython" not in name}  # grpc's own compiled parts
    assert loaded - {"typing_extensions"} == {"hiddenstate", "grpc", "google"}


def test_import_does_not_reach_the_server_or_the_exporter(thin_client: Path) -> None:
    code = """
import json, sys
import hiddenstate.cli
print(json.dumps([name for name in sys.modules if name.startswith(("hiddenstate_server", "hiddenstate_exporter"))]))
"""
    assert _python(thin_client, code) == []


def test_the_command_lists_what_needs_extras_too(thin_client: Path) -> None:
    shown = run(thin_client / "hiddenstate", "--help", cwd=thin_client)
    assert shown.returncode == 0, shown.stderr
    assert {"predict", "encode", "serve", "train"} <= set(shown.stdout.split())


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("serve", "server"),
        ("train language-model --data text --run-dir run", "exporter"),
        ("export folder --to models", "exporter"),
        ("import text text --to models", "exporter"),
        ("evaluate folder", "exporter"),
    ],
)
def test_a_command_of_an_extra_names_the_extra_that_is_missing(
    thin_client: Path, tmp_path: Path, command: str, extra: str
) -> None:
    (tmp_path / "text").write_text("I would like to thank you .\n")
    (tmp_path / "folder").mkdir()
    refused = run(thin_client / "hiddenstate", *command.split(), cwd=tmp_path)
    assert refused.returncode != 0
    assert f"pip install 'hiddenstate[{extra}]'" in refused.stderr
    assert "Traceback" not in refused.stderr


def _contents(wheel: Path) -> set[str]:
    return {name for name in _names(wheel) if ".dist-info/" not in name}


def _sources() -> set[str]:
    """Returns what the wheel has of the repository, compiled modules aside."""
    files = {
        str(name / path.relative_to(folder))
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    return files | {"hiddenstate_command.py"}


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def _requirements(wheel: Path) -> list[Requirement]:
    return [Requirement(text) for text in _metadata(wheel).get_all("Requires-Dist", [])]


def _installed(bin_folder: Path) -> set[str]:
    code = """
import importlib.metadata, json
print(json.dumps([each.metadata["Name"] for each in importlib.metadata.distributions()]))
"""
    return {canonicalize_name(name) for name in _python(bin_folder, code)}


def _python(bin_folder: Path, code: str) -> Iterable[str]:
    """Runs code that prints JSON, isolated from this process's paths and variables."""
    done = run(bin_folder / "python", "-I", "-c", code, cwd=bin_folder)
    assert done.returncode == 0, done.stderr
    names: list[str] = json.loads(done.stdout)
    return names
