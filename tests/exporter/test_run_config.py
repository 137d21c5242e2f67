"""A run as a TOML file."""

import re
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
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
from hiddenstate_exporter.training.sentence_encoder_config import SentenceEncoderRun

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "exporter" / "recipes"
RUN_OF: dict[str, type[LanguageModelRun | SentenceEncoderRun]] = {
    "language-model": LanguageModelRun,
    "sentence-encoder": SentenceEncoderRun,
    "compare": LanguageModelRun,
}
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


def test_a_value_that_was_taken_away_does_not_come_back_as_the_default(tmp_path: Path) -> None:
    run = make({"model": {"forget_bias": None}, "data": {"sources": ["a.txt"], "description": "none"}})
    assert run.model.forget_bias is None
    write_tables(tmp_path / "config.toml", to_tables(run))
    again = make_run(LanguageModelRun, read_tables(tmp_path / "config.toml"), "config.toml")
    assert again == run
    assert (again.model.connections, again.data.description) == ("none", "none")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_is_a_run_and_its_header_says_how_to_start_it(path: Path) -> None:
    command = rf"hiddenstate (train )?(\S+) --config exporter/recipes/{re.escape(path.name)} --(run-dir|out) \S"
    begin = re.search(command, path.read_text(encoding="utf-8"))
    assert begin
    run = make_run(RUN_OF[begin[2]], read_tables(path), path.name)
    if isinstance(run, LanguageModelRun):
        assert network_config(run, vocab_size=10_000).tied


@pytest.mark.parametrize("kind", [LanguageModelRun, SentenceEncoderRun])
def test_every_table_and_key_of_a_run_is_documented(kind: type[msgspec.Struct]) -> None:
    documented = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "training.md").read_text(encoding="utf-8")))
    for table, struct in get_type_hints(kind).items():
        assert {table, *struct.__struct_fields__} <= documented


def make_encoder(tables: dict[str, Any]) -> SentenceEncoderRun:
    return make_run(SentenceEncoderRun, {"data": {"sentences": ["a.txt"]}} | tables, "run.toml")


def test_a_table_that_both_kinds_of_run_have_keeps_the_defaults_of_its_own() -> None:
    run = make_encoder({"optimizer": {"clip": 2.0}, "training": {"patience": 3}})
    assert (run.optimizer.weight_decay, run.optimizer.clip) == (0.0, 2.0)
    assert (run.training.max_epochs, run.training.patience) == (20, 3)
    other = make({"optimizer": {"clip": 2.0}, "training": {"patience": 3}})
    assert (other.optimizer.weight_decay, other.training.max_epochs) == (0.01, 40)


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"distilation": {}}, r"run\.toml: distilation: no such table; is distillation meant\?"),
        ({"distillation": {"techer": "a"}}, r"run\.toml: distillation\.techer: no such key; is teacher meant\?"),
        ({"data": {"sentence": ["a.txt"]}}, r"run\.toml: data\.sentence: no such key; is sentences meant\?"),
        ({"data": {}}, r"run\.toml: data: there is nothing to train on: give sentences, in_domain or text"),
        ({"data": {"text": ["a"], "repeat": 0}}, r"run\.toml: data\.repeat: expected `int` >= 1"),
        ({"model": {"pooling": "median"}}, r"run\.toml: model\.pooling: invalid enum value 'median'"),
        ({"training": {"compile": True}}, r"run\.toml: training\.compile: no such key"),
        ({"batches": {"bptt": 3}}, r"run\.toml: batches\.bptt: no such key; there are batch_size"),
    ],
)
def test_what_is_wrong_in_an_encoders_run_is_named_by_file_and_key(tables: dict[str, Any], reason: str) -> None:
    with pytest.raises(RunConfigError, match=reason):
        make_encoder(tables)


def test_an_encoders_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = make_encoder({"data": {"in_domain": ["a.csv:6,7"], "sts": "b.csv"}, "model": {"dimension": 5}})
    write_tables(tmp_path / "config.toml", to_tables(run))
    assert make_run(SentenceEncoderRun, read_tables(tmp_path / "config.toml"), "config.toml") == run


@pytest.mark.parametrize("kind", [LanguageModelRun, SentenceEncoderRun])
def test_a_run_without_any_table_has_nothing_to_train_on(kind: type[Any]) -> None:
    with pytest.raises(RunConfigError, match="the command line: data: there is nothing to train on"):
        make_run(kind, {}, "the command line")
