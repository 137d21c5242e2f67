"""Which versions are served, and by what names: `repository.toml`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from bundles import language_model_bundle
from hiddenstate.v1.model_pb2 import GetModelRequest, ListModelsRequest
from hiddenstate_server.config import EngineSettings
from hiddenstate_server.errors import BundleError, ModelLoadError, ModelNotFoundError
from hiddenstate_server.metrics import Metrics
from hiddenstate_server.repository import Repository
from serving import serving

Open = Callable[[], Repository]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four versions of one model."""
    for version in ("1", "2", "3", "10"):
        language_model_bundle(tmp_path, version=version, seed=int(version))
    return tmp_path


@pytest_asyncio.fixture
async def open_repository(folder: Path) -> AsyncIterator[Open]:
    """Opens the folder; closes it in the end."""
    opened: list[Repository] = []

    def open_it() -> Repository:
        loop = asyncio.get_running_loop()
        opened.append(Repository.open(folder, settings=EngineSettings(), metrics=Metrics(), loop=loop))
        return opened[-1]

    yield open_it
    for repository in opened:
        repository.close()


def write_policy(folder: Path, text: str) -> None:
    (folder / "tiny-lm" / "repository.toml").write_text(text)


def versions(repository: Repository) -> list[str]:
    return [model.version for model in repository.models()]


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", ["10"]),
        ("versions = { latest = 2 }", ["3", "10"]),
        ("versions = { latest = 9 }", ["1", "2", "3", "10"]),
        ('versions = "all"', ["1", "2", "3", "10"]),
        ('versions = ["3", "1"]', ["1", "3"]),
        ('[labels]\nstable = "2"', ["2", "10"]),
        ('versions = ["1"]\n[labels]\nstable = "2"\nold = "2"', ["1", "2"]),
        ('default = "2"', ["2", "10"]),
    ],
)
async def test_a_policy_says_which_versions_are_served(
    folder: Path, open_repository: Open, policy: str, served: list[str]
) -> None:
    write_policy(folder, policy)
    assert versions(open_repository()) == served


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("versions = 3", r"repository\.toml: Expected .* at `\$\.versions`"),
        ("versions = { latest = 0 }", r"Expected `int` >= 1 - at `\$\.versions\.latest`"),
        ('version = "all"', r"Object contains unknown field `version`"),
        ('versions = ["9"]', r"versions: there is no version '9'; there is: 1, 2, 3, 10"),
        ('[labels]\nstable = "9"', r"labels\.stable: there is no version '9'"),
        ("[labels]\nstable = 2", r"Expected `str`, got `int` - at `\$\.labels"),
        ('default = "canary"', r"default: there is no version 'canary'"),
        ('[labels]\n3 = "2"', r"labels: '3' is the name of a version"),
        ('[labels]\n"a b" = "2"', r"labels: 'a b' is not a valid name"),
        ("versions = ", r"repository\.toml: "),
        ("\xff", r"repository\.toml: "),
    ],
)
async def test_a_policy_that_makes_no_sense_is_refused(
    folder: Path, open_repository: Open, policy: str, message: str
) -> None:
    (folder / "tiny-lm" / "repository.toml").write_bytes(policy.encode("latin-1"))
    with pytest.raises(BundleError, match=message):
        open_repository()


async def test_a_label_is_another_name_for_a_version(folder: Path, open_repository: Open) -> None:
    write_policy(folder, 'default = "stable"\n[labels]\nstable = "2"\ncanary = "10"')
    repository = open_repository()
    assert repository.language_model("tiny-lm", "canary").version == "10"
    assert repository.language_model("", "stable") is repository.language_model("tiny-lm", "2")
    assert repository.language_model() is repository.find("tiny-lm") is repository.find("tiny-lm", "stable")
    assert repository.labels("tiny-lm") == {"stable": "2", "canary": "10"}
    with pytest.raises(ModelNotFoundError, match=r"no version 'beta'; there is: 2, 10, stable \(2\), canary \(10\)"):
        repository.find("tiny-lm", "beta")


async def test_labels_move_with_the_file_and_load_what_they_lead_to(folder: Path, open_repository: Open) -> None:
    write_policy(folder, '[labels]\nstable = "1"')
    repository = open_repository()
    write_policy(folder, '[labels]\nstable = "3"\n')
    await repository.load("tiny-lm")
    assert repository.find("tiny-lm", "stable").version == "3"
    assert versions(repository) == ["3", "10"]


async def test_a_refused_policy_leaves_everything_as_it_was(folder: Path, open_repository: Open) -> None:
    write_policy(folder, '[labels]\nstable = "1"')
    repository = open_repository()
    write_policy(folder, '[labels]\nstable = "99"')
    with pytest.raises(ModelLoadError, match=r"there is no version '99'.* tiny-lm version 1, 10 goes on being served"):
        await repository.load("tiny-lm")
    assert repository.find("tiny-lm", "stable").version == "1"
    assert versions(repository) == ["1", "10"]
    (entry,) = [entry for entry in repository.index() if not entry.version]
    assert (entry.state, "there is no version '99'" in entry.reason) == ("UNAVAILABLE", True)


async def test_a_label_whose_version_is_damaged_stays_where_it_was(folder: Path, open_repository: Open) -> None:
    write_policy(folder, 'versions = "all"\n[labels]\ncanary = "3"')
    repository = open_repository()
    damaged = language_model_bundle(folder, version="11")
    (damaged / "weights.bin").write_bytes(b"")
    write_policy(folder, 'versions = "all"\n[labels]\ncanary = "11"')
    with pytest.raises(ModelLoadError, match="version 11 cannot be loaded"):
        await repository.load("tiny-lm")
    assert repository.find("tiny-lm", "canary").version == "3"


async def test_a_default_that_is_damaged_from_the_start_is_not_replaced_by_another_version(
    folder: Path, open_repository: Open
) -> None:
    write_policy(folder, 'default = "stable"\n[labels]\nstable = "2"\ncanary = "10"')
    (folder / "tiny-lm" / "2" / "weights.bin").write_bytes(b"")
    repository = open_repository()
    with pytest.raises(ModelNotFoundError, match=r"no version '', because .*'stable' for that, which is not served"):
        repository.language_model()
    with pytest.raises(ModelNotFoundError, match=r"no version 'stable', because version 2 .*SHA-256"):
        repository.find("tiny-lm", "stable")
    assert repository.find("tiny-lm", "canary").version == "10"


async def test_all_served_versions_are_listed_and_described_by_label_over_the_wire(folder: Path) -> None:
    write_policy(folder, 'versions = { latest = 2 }\n[labels]\nstable = "2"')
    async with serving(folder) as wire:
        models = (await wire.models.ListModels(ListModelsRequest())).models
        assert [model.version for model in models] == ["2", "3", "10"]
        response = await wire.models.GetModel(GetModelRequest(name="tiny-lm", version="stable"))
        assert response.model.version == "2"
