"""A run as a TOML file."""

from pathlib import Path
from typing import Any

import pytest

from hiddenstate_exporter.training.language_model_run import network_config
from hiddenstate_exporter.training.run_config import (
    LanguageModelRun,
    RunConfigError,
    lay_over,
    make_run,
    read_setting,
    read_tables,
    to_tables,
    write_tables,
)

RUN = """
[data]
sources = ["a.txt"]

[optimizer]
name = "nt-asgd"
lr = 30
"""


def make(tables: dict[str, Any]) -> LanguageModelRun:
    return make_run(LanguageModelRun, {"data": {"sources": ["a.txt"]}} | tables, "run.toml")


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    run = make_run(LanguageModelRun, read_tables(path), "run.toml")
    assert (run.optimizer.name, run.optimizer.lr) == ("nt-asgd", 30.0)
    assert run.optimizer.clip == LanguageModelRun(data=run.data).optimizer.clip
    assert run.data.sources == ("a.txt",)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("optimizer.lr=20", ("optimizer.lr", 20)),
        ("optimizer.name = sgd", ("optimizer.name", "sgd")),
        ('data.description="a = b"', ("data.description", "a = b")),
        ("model.cutoffs=[1, 2]", ("model.cutoffs", [1, 2])),
        ("model.tied=false", ("model.tied", False)),
        ("training.max_minutes=none", ("training.max_minutes", None)),
    ],
)
def test_a_setting_is_read_as_toml_or_as_a_word(text: str, setting: tuple[str, object]) -> None:
    assert read_setting(text) == setting


@pytest.mark.parametrize("text", ["optimizer.lr", "=3", ""])
def test_a_setting_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(RunConfigError, match="must be KEY=VALUE"):
        read_setting(text)


def test_settings_are_laid_over_the_file_and_leave_it_as_it_was() -> None:
    tables = {"optimizer": {"lr": 1.0, "clip": 2.0}}
    assert lay_over(tables, [("optimizer.lr", 3), ("model.cell", "gru")]) == {
        "optimizer": {"lr": 3, "clip": 2.0},
        "model": {"cell": "gru"},
    }
    assert tables == {"optimizer": {"lr": 1.0, "clip": 2.0}}


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"optimizer": {"learning_rate": 1}}, r"run\.toml: optimizer\.learning_rate: no such key; there are name, lr,"),
        ({"optimizer": {"clipp": 1}}, r"run\.toml: optimizer\.clipp: no such key; is clip meant\?"),
        ({"optimiser": {"lr": 1}}, r"run\.toml: optimiser: no such table; is optimizer meant\?"),
        ({"lr": 1}, r"run\.toml: lr: no such table"),
        ({"training": 3}, r"run\.toml: training: is a table, write \[training\] above its keys"),
        ({"optimizer": {"lr": "fast"}}, r"run\.toml: optimizer\.lr: expected `float`, got `str`"),
        ({"optimizer": {"lr": 0}}, r"run\.toml: optimizer\.lr: expected `float` > 0"),
        ({"optimizer": {"name": "adagrad"}}, r"run\.toml: optimizer\.name: invalid enum value 'adagrad'"),
        ({"regularization": {"weight_drop": 1.0}}, r"regularization\.weight_drop: expected `float` < 1"),
        ({"data": {}}, r"run\.toml: data: there is nothing to train on"),
        ({"data": {"sources": ["a"], "test": ["b"]}}, r"run\.toml: data: give sources, or train, valid and test"),
        ({"data": {"train": ["a"], "test": ["b"]}}, r"run\.toml: data: there is nothing to train on"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_key(tables: dict[str, Any], reason: str) -> None:
    with pytest.raises(RunConfigError, match=reason):
        make(tables)


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunConfigError, match=r"gone\.toml: cannot be read: No such file"):
        read_tables(tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("[optimizer\nlr = 1")
    with pytest.raises(RunConfigError, match=r"bad\.toml: not TOML: .*line 1"):
        read_tables(tmp_path / "bad.toml")


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = make(
        {"model": {"head": "adaptive_softmax", "cutoffs": [5, 9], "tied": False}, "training": {"max_minutes": 3}}
    )
    write_tables(tmp_path / "config.toml", to_tables(run))
    assert make_run(LanguageModelRun, read_tables(tmp_path / "config.toml"), "config.toml") == run


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "exporter" / "recipes").glob("*.toml")))
def test_every_recipe_is_a_run(path: Path) -> None:
    run = make_run(LanguageModelRun, read_tables(path), path.name)
    assert network_config(run, vocab_size=10_000).tied
