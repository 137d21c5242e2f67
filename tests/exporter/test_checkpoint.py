"""Checkpoints: what is written comes back, and whatever else lies there is refused with a reason."""

import dataclasses
from pathlib import Path

import pytest
import torch

from hiddenstate_exporter.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint


def make_checkpoint() -> Checkpoint:
    return Checkpoint(
        kind="language_model",
        config={"vocab_size": 3, "tied": True},
        model={"weight": torch.arange(6.0).view(2, 3)},
        tokenizer="{}",
        training={"data": "a book", "command": "hiddenstate train", "seconds": 1.5, "epochs": 2.0},
        metrics={"perplexity": 12.5},
        progress={"run": {"epoch": 1, "best": float("inf")}, "task": {"state": (torch.ones(2), torch.zeros(2))}},
        rng=torch.get_rng_state(),
    )


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = make_checkpoint()
    save_checkpoint(tmp_path / "best.pt", written)
    read = load_checkpoint(tmp_path / "best.pt")
    assert torch.equal(read.model["weight"], written.model["weight"])
    assert read.rng is not None
    assert written.rng is not None
    assert torch.equal(read.rng, written.rng)
    assert read.progress is not None
    assert torch.equal(read.progress["task"]["state"][0], torch.ones(2))
    for name in ("kind", "config", "tokenizer", "training", "metrics", "schema_version", "optimizer", "schedule"):
        assert getattr(read, name) == getattr(written, name)


def test_a_checkpoint_is_readable_by_torch_without_running_code(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.pt", make_checkpoint())
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    assert content["schema_version"] == 1
    assert content["config"] == {"vocab_size": 3, "tied": True}


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, make_checkpoint())
    before = path.read_bytes()

    def full_disk(content: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(path, dataclasses.replace(make_checkpoint(), tokenizer="changed"))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pt: no such file"):
        load_checkpoint(tmp_path / "gone.pt")


@pytest.mark.parametrize("keep", [0, 10, 600])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "best.pt"
    save_checkpoint(path, make_checkpoint())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a checkpoint, or a damaged one"):
        load_checkpoint(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"schema_version": 1, "model": torch.nn.Linear(1, 1)}, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint, or a damaged one"):
        load_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "no schema_version"),
        ({"weight": 1}, "no schema_version"),
        ({"schema_version": 2}, "schema_version 2, this release reads 1"),
        ({"schema_version": 1, "kind": "language_model"}, "lacks config, model, tokenizer, training"),
    ],
)
def test_a_file_of_something_else_is_refused_with_the_reason(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path / "best.pt")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    content = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(checkpoint)} | {"kind": "vision"}
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="kind 'vision' is not one of language_model, sentence_encoder"):
        load_checkpoint(tmp_path / "best.pt")
