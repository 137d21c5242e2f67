"""What people give to a training by mistake, and Ctrl-C where it is least expected."""

import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hiddenstate_exporter.cli import train
from hiddenstate_exporter.training import corpus, language_model_run
from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_exporter.training.corpus import CorpusError, paragraphs_of, read_sources
from hiddenstate_exporter.training.language_model_run import measure

SMALL = "--embedding-size 8 --hidden-size 8 --num-layers 1 --batch-size 2 --bptt 5 --threads 1 --max-epochs 1"
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]


def text(words: int, separator: str = "\n") -> str:
    """Makes lines of twenty words."""
    chosen = random.Random(0).choices(WORDS, k=words)
    return separator.join(" ".join(chosen[start : start + 20]) for start in range(0, words, 20))


def run(content: bytes, tmp_path: Path, *options: str, name: str = "text.txt") -> Result:
    path = tmp_path / name
    path.write_bytes(content)
    arguments = ["language-model", "--data", str(path), "--run-dir", str(tmp_path / "run"), *SMALL.split(), *options]
    return CliRunner().invoke(train, arguments, prog_name="hiddenstate train")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "text.txt: every file is empty"),
        (b" \n\n\t \n", "text.txt: every file is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "text.txt: is a binary file, not text"),
        (bytes(range(1, 32)) * 20, "text.txt: is a binary file, not text"),
        ("caf\u00e9 cr\u00e8me".encode("latin-1"), "text.txt: is not UTF-8 text (byte 3 is 0xe9); if it is Latin-1"),
        (b"x" * 20_000, "text.txt: has a word of 20,000 characters; put spaces or line ends between words"),
        (b"only three words", "too little text: 3 words in 1 paragraphs"),
    ],
)
def test_a_corpus_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    refused = run(content, tmp_path)
    assert refused.exit_code == 1
    assert reason in refused.output
    assert refused.output.splitlines()[-1].startswith("Error: ")


def test_a_text_that_is_one_long_line_is_trained_on(tmp_path: Path) -> None:
    done = run(text(60_000, " ").encode(), tmp_path)
    assert done.exit_code == 0, done.output
    assert "tokens: 57,058 to train on" in done.output  # 57 pieces of 1,000 words and an <eos>, and one before them


def test_the_words_of_one_long_line_are_never_in_memory_all_at_once() -> None:
    line = text(400_000, " ")
    tracemalloc.start()
    pieces = paragraphs_of(line)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pieces) == 400
    assert " ".join(pieces) == line
    assert peak < 4 * len(line)  # a list of its words is 13 times as large


def test_a_long_paragraph_is_cut_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MAX_PARAGRAPH_WORDS", 3)
    assert paragraphs_of("a b c d e f g\nh i") == ("a b c", "d e f", "g", "h i")


def test_a_folder_in_place_of_a_text_that_holds_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no \.txt or \.txt\.xz file"):
        read_sources([str(tmp_path)])


def test_a_vocabulary_larger_than_the_data_is_refused_with_what_there_is(tmp_path: Path) -> None:
    refused = run(text(4000).encode(), tmp_path, "--vocab-size", "5000")
    assert refused.exit_code == 1
    assert "a vocabulary of 5000 is asked for, but the text supports only 10" in refused.output


def test_a_run_folder_that_cannot_be_written_is_named_before_the_text_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model_run, "read_texts", lambda config: pytest.fail("the text was read"))
    (tmp_path / "run").write_text("a file, not a folder")
    refused = CliRunner().invoke(
        train, ["language-model", "--data", "x.txt", "--run-dir", str(tmp_path / "run" / "in"), *SMALL.split()]
    )
    assert refused.exit_code == 1
    assert "cannot be used as run folder: Not a directory" in refused.output


def test_held_out_parts_that_are_too_small_are_warned_of_with_their_tokens(tmp_path: Path) -> None:
    done = run(text(4000).encode(), tmp_path)
    assert done.exit_code == 0, done.output
    for part, use in (("valid", "choose the best weights"), ("test", "say how good they are")):
        found = re.search(rf"^warning: the {part} part has (\d+) tokens, too few to {use} ", done.output, re.MULTILINE)
        assert found, done.output
        assert f"{found[1]} {'for validation' if part == 'valid' else 'test'}" in done.output
        assert f"give more text, or a longer text for this part alone (data.{part})" in done.output


def test_held_out_parts_of_a_thousand_tokens_are_not_warned_of(tmp_path: Path) -> None:
    for name, words in (("train.txt", 2000), ("valid.txt", 980), ("test.txt", 920)):
        (tmp_path / name).write_text(text(words))
    parts = [
        word for part in ("train", "valid", "test") for word in ("--set", f'data.{part}=["{tmp_path}/{part}.txt"]')
    ]
    arguments = ["language-model", "--run-dir", str(tmp_path / "run"), *SMALL.split(), *parts]
    done = CliRunner().invoke(train, arguments, prog_name="hiddenstate train")
    assert done.exit_code == 0, done.output
    assert "1,030 for validation, 967 test" in done.output  # an <eos> first and at the end of each line
    assert "the valid part" not in done.output
    assert "warning: the test part has 967 tokens, too few" in done.output


def test_a_run_from_a_file_names_the_file_and_the_key_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[optimizer]\nlearning_rate = 1\n")
    refused = run(b"", tmp_path, "--config", str(tmp_path / "run.toml"))
    assert refused.exit_code == 1
    assert "run.toml: optimizer.learning_rate: no such key" in refused.output
    refused = run(b"", tmp_path, "--set", "optimizer.lr=-1")
    assert "the command line: optimizer.lr: expected `float` > 0.0" in refused.output


def test_what_was_in_force_is_kept_with_the_run_and_in_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[optimizer]\nlr = 0.5\nclip = 0.1\n[model]\nhidden_size = 99\n")
    config = ("--config", str(tmp_path / "run.toml"), "--set", "optimizer.lr=0.25")
    done = run(text(4000).encode(), tmp_path, *config)
    assert done.exit_code == 0, done.output
    kept = (tmp_path / "run" / "config.toml").read_text()
    assert "lr = 0.25\n" in kept  # --set
    assert "hidden_size = 8\n" in kept  # an option
    assert "clip = 0.1\n" in kept  # the file
    tables = load_checkpoint(tmp_path / "run" / "best.pt").training["config"]
    assert (tables["optimizer"]["lr"], tables["model"]["hidden_size"], tables["optimizer"]["clip"]) == (0.25, 8, 0.1)
    resume = ["language-model", "--run-dir", str(tmp_path / "run"), "--resume", "--max-epochs", "2"]
    resumed = CliRunner().invoke(train, resume, prog_name="hiddenstate train")
    assert resumed.exit_code == 0, resumed.output
    assert "lr = 0.25\n" in (tmp_path / "run" / "config.toml").read_text()
    assert load_checkpoint(tmp_path / "run" / "last.pt").training["epochs"] == 2.0


def test_ctrl_c_while_the_text_is_read_ends_with_a_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(language_model_run, "read_texts", interrupted)
    ended = run(b"a b c", tmp_path)
    assert ended.exit_code == 130
    assert "interrupted; what was saved before is whole" in ended.output
    assert not (tmp_path / "run" / "last.pt").exists()


def test_ctrl_c_while_the_result_is_measured_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(language_model_run, "measure", interrupted)
    assert run(text(4000).encode(), tmp_path).exit_code == 130
    monkeypatch.setattr(language_model_run, "measure", measure)
    resumed = run(text(4000).encode(), tmp_path, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert "test perplexity" in resumed.output
    assert "top1_accuracy" in load_checkpoint(tmp_path / "run" / "best.pt").metrics
