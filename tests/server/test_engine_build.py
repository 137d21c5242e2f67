"""Whether the engine is compiled: in one function, in the log and among the metrics."""

import logging
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from hiddenstate_server import engine_build
from hiddenstate_server.engine_build import engine, is_compiled
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.tallies import Distribution
from interpreted import SourceFinder
from serving import serving

NAME = engine_build._ONE_OF_THEM


def test_it_is_compiled_where_its_methods_are_no_functions_of_python() -> None:
    assert is_compiled() != isinstance(Distribution.observe, FunctionType)


@pytest.mark.parametrize(
    ("file", "expected"), [("tallies.py", "interpreted"), ("tallies.so", "compiled"), (None, "interpreted")]
)
def test_the_file_that_was_imported_tells(monkeypatch: pytest.MonkeyPatch, file: str | None, expected: str) -> None:
    imported = ModuleType(NAME)
    imported.__spec__ = ModuleSpec(NAME, None, origin=file)
    monkeypatch.setitem(sys.modules, NAME, imported)
    assert engine() == expected


def test_sources_can_be_preferred_to_compiled_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [SourceFinder, *sys.meta_path])
    monkeypatch.delitem(sys.modules, NAME)
    found = find_spec(NAME)
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin).name == "tallies.py"
    assert not is_compiled()


def test_the_module_that_is_asked_for_can_be_compiled() -> None:
    assert Path(engine_build.__file__).with_name("tallies.pxd").is_file()


def test_the_metrics_tell_it_beside_the_release() -> None:
    (family,) = (each for each in Metrics().registry.collect() if each.name == "hiddenstate_build")
    (sample,) = family.samples
    assert sample.labels["engine"] == engine()


async def test_a_server_logs_it_when_it_starts(models_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hiddenstate_server.server"):
        async with serving(models_dir):
            pass
    assert f"the engine runs {engine()}" in caplog.messages
