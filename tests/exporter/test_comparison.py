"""`hiddenstate compare`: equal sizes, one table, a recommendation."""

import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from hiddenstate_exporter.cli import compare
from hiddenstate_exporter.comparison import result
from hiddenstate_exporter.comparison.contender import make_contenders
from hiddenstate_exporter.comparison.recommendation import recommend
from hiddenstate_exporter.comparison.unigram import unigram_perplexity
from hiddenstate_exporter.networks.language_model import LanguageModel
from hiddenstate_exporter.publishing.checkpoint_model import count_parameters
from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_exporter.training.language_model_run import network_config
from hiddenstate_exporter.training.language_model_task import LanguageModelTask
from hiddenstate_exporter.training.run_config import LanguageModelRun, make_run
from hiddenstate_server.bundle import load_bundle

SMALL = {
    "data": {"sources": ["a.txt"]},
    "model": {"embedding_size": 16, "hidden_size": 24, "num_layers": 2},
    "batches": {"batch_size": 4, "bptt": 8},
}


def make_row(name: str, perplexity: float, ms_per_token: float = 1.0, **changes: Any) -> result.Result:
    cell, _, connections = name.partition("-")
    fields: dict[str, Any] = {
        "cell": cell,
        "connections": connections or "none",
        "hidden_size": 8,
        "parameters": 1000,
        "perplexities": [perplexity],
        "tokens_per_s": 1.0,
        "epochs": 1.0,
        "seconds": 1.0,
        "bundle_bytes": 1,
    }
    return result.Result(name=name, ms_per_token=ms_per_token, **(fields | changes))


def test_widths_are_solved_for_so_that_all_have_the_same_number_of_parameters() -> None:
    run = make_run(LanguageModelRun, SMALL, "here")
    contenders = make_contenders(run, ["rnn", "lstm", "gru"], ["none", "dense"], vocab_size=500)
    assert [c.name for c in contenders] == ["rnn", "lstm", "gru", "rnn-dense", "lstm-dense", "gru-dense"]
    assert contenders[1].run.model.hidden_size == 24
    assert contenders[0].run.model.hidden_size > contenders[2].run.model.hidden_size > 24
    for contender in contenders:
        counted = count_parameters(LanguageModel(network_config(contender.run, vocab_size=500)))
        assert counted == contender.parameters == pytest.approx(contenders[1].parameters, rel=0.02)


def test_a_size_that_the_embedding_alone_exceeds_is_refused() -> None:
    run = make_run(LanguageModelRun, SMALL, "here")
    with pytest.raises(ValueError, match="lstm with none connections: no width gives 4,000 parameters"):
        make_contenders(run, ["lstm"], ["none"], vocab_size=500, parameters=4000)


@pytest.mark.parametrize(
    ("rows", "name", "reason"),
    [
        ([("lstm", 100.0), ("gru", 100.5)], "lstm", "the default"),
        ([("lstm", 100.0), ("gru", 100.5, 0.8)], "gru", "as good as lstm within noise (1.0%), and 20% faster to serve"),
        ([("lstm", 100.0), ("gru", 103.0, 0.8)], "lstm", "the default"),
        ([("lstm", 100.0), ("gru", 95.0, 1.5)], "gru", "its perplexity is 5.0% lower than that of lstm"),
        ([("rnn", 99.5, 0.1), ("lstm", 100.0)], "lstm", "the default"),
        (
            [("lstm", 100.0), ("lstm-residual", 90.0), ("gru-residual", 90.1, 0.5)],
            "gru-residual",
            "as good as lstm-res",
        ),
        ([("rnn", 120.0), ("gru", 100.0)], "gru", "no plain LSTM was compared"),
    ],
)
def test_the_lstm_is_taken_unless_another_is_better_or_a_gru_as_good_and_cheaper(
    rows: list[Any], name: str, reason: str
) -> None:
    recommendation = recommend([make_row(*row) for row in rows], 200.0)
    assert recommendation.name == name
    assert reason in recommendation.reason


def test_seeds_that_differ_much_make_noise_larger() -> None:
    noisy = [
        make_row("lstm", 0, perplexities=[90.0, 110.0]),
        make_row("gru", 0, perplexities=[85.0, 105.0]),
    ]
    assert recommend(noisy, 200.0).name == "lstm"
    assert recommend([make_row("lstm", 100.0), make_row("gru", 95.0)], 200.0).name == "gru"


@pytest.mark.parametrize(
    ("perplexities", "name"),
    [((150.0, 120.0), None), ((150.0, 99.5), None), ((150.0, 98.0), "gru"), ((98.0, 150.0), "lstm")],
)
def test_nothing_is_recommended_where_none_is_better_than_word_frequencies(
    perplexities: tuple[float, float], name: str | None
) -> None:
    results = [make_row("lstm", perplexities[0]), make_row("gru", perplexities[1])]
    recommendation = recommend(results, 100.0)
    assert recommendation.name == name
    assert ("the budget was too small to tell" in str(recommendation)) is (name is None)


def test_the_perplexity_of_word_frequencies_is_that_of_their_entropy() -> None:
    train = torch.tensor([0, 1, 1, 2, 2, 3, 3, 0, 0])  # without the first: each of four tokens twice
    assert unigram_perplexity(train, torch.tensor([0, 1, 3, 2, 0]), 4) == pytest.approx(4)
    half = torch.tensor([0, 1, 1, 0])  # two of 1, one of 0, and one of 2 though it is not there
    assert unigram_perplexity(half, torch.tensor([0, 1, 2]), 3) == pytest.approx((0.5 * 0.25) ** -0.5)


@pytest.fixture
def rhyme(tmp_path: Path) -> Path:
    """A text whose every word decides the next one."""
    path = tmp_path / "rhyme.txt"
    path.write_text("\n".join(["aa bb cc dd ee ff gg hh"] * 300), encoding="utf-8")
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A text of which nothing can be learnt but how frequent words are."""
    dice = random.Random(4)
    lines = [" ".join(dice.choice("abcdefgh") * 2 for _ in range(8)) for _ in range(300)]
    path = tmp_path / "book.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def invoke(book: Path, out: Path, *options: str) -> Result:
    sizes = ["model.embedding_size=8", "model.hidden_size=8", "model.num_layers=1", "batches.batch_size=4"]
    settings = [word for setting in [*sizes, "batches.bptt=8", "training.threads=1"] for word in ("--set", setting)]
    arguments = ["--data", str(book), "--out", str(out), "--max-tokens", "640", *settings, *options]
    return CliRunner().invoke(compare, arguments, prog_name="hiddenstate compare")


def test_each_contender_is_trained_published_timed_and_put_into_the_table(rhyme: Path, tmp_path: Path) -> None:
    learning = ("--set", "optimizer.lr=0.1", "--set", "schedule.warmup_steps=0")
    done = invoke(rhyme, tmp_path / "out", "--cells", "lstm,gru", "--seeds", "2", *learning)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = found["results"]
    assert [row["name"] for row in rows] == ["lstm", "gru"]
    for row in rows:
        bundle = load_bundle(tmp_path / "out" / "models" / row["name"] / "1")
        assert bundle.parameters == row["parameters"]
        assert bundle.training.config["model"]["hidden_size"] == row["hidden_size"]
        assert bundle.training.config["training"]["max_tokens"] == 640
        assert bundle.training.command.startswith("hiddenstate compare --data ")
        assert len(row["perplexities"]) == 2
        assert row["perplexities"][0] != row["perplexities"][1]
        assert row["ms_per_token"] > 0
        assert row["bundle_bytes"] > 1000
    name = found["recommendation"]["name"]
    assert name in ("lstm", "gru")
    assert re.search(rf"^ +{name} \* +\d+", done.output, re.MULTILINE)
    assert re.search(rf"^take {name}: ", done.output, re.MULTILINE)
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_budget_in_which_nothing_is_learnt_recommends_nothing_anywhere(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    titles: list[str] = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, title, **_: titles.append(title))
    done = invoke(book, tmp_path / "out", "--cells", "lstm,gru")
    assert done.exit_code == 0, done.output
    recommendation = json.loads((tmp_path / "out" / "results.json").read_text())["recommendation"]
    assert recommendation["name"] is None
    assert 8 < recommendation["unigram_perplexity"] < 10  # eight words and <eos>
    assert not re.search(r"^ +(lstm|gru) \*", done.output, re.MULTILINE)
    assert "take" not in done.output
    for text in (recommendation["reason"], titles[0], done.output):
        assert "the budget was too small to tell" in " ".join(text.split())


def test_a_comparison_that_was_broken_off_goes_on_and_trains_nothing_twice(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = 0
    compute = LanguageModelTask.loss

    def interrupting(self: LanguageModelTask, batch: Any) -> Any:
        nonlocal losses
        losses += 1
        if losses == 25:  # within the second training of 20 steps
            signal.raise_signal(signal.SIGINT)
        return compute(self, batch)

    monkeypatch.setattr(LanguageModelTask, "loss", interrupting)
    broken = invoke(book, tmp_path / "out", "--cells", "lstm,gru")
    assert broken.exit_code == 130, broken.output
    assert "the same command with --resume continues" in broken.output
    refused = invoke(book, tmp_path / "out", "--cells", "lstm,gru")
    assert refused.exit_code == 1
    assert "is not empty; continue with --resume" in refused.output
    done = invoke(book, tmp_path / "out", "--cells", "lstm,gru", "--resume")
    assert done.exit_code == 0, done.output
    assert "lstm-0: is trained already" in done.output
    assert losses == 40


def test_results_of_other_settings_are_not_taken_over(book: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke(book, out, "--cells", "gru")
    assert done.exit_code == 0, done.output
    for options, difference in (
        (("--max-tokens", "960"), "training.max_tokens 640, not 960"),
        (("--max-minutes", "5"), "training.max_minutes none, not 5.0"),
        (("--set", "optimizer.lr=0.5"), "optimizer.lr 0.002, not 0.5"),
    ):
        refused = invoke(book, out, "--cells", "lstm,gru", "--resume", *options)
        assert refused.exit_code == 1
        assert f"gru-0: was trained with {difference}; continue with the same settings, or" in refused.output
        assert not (out / "runs" / "lstm-0").exists()  # found before anything is trained
    (out / "runs").rename(tmp_path / "runs")
    refused = invoke(book, out, "--cells", "gru", "--resume", "--max-tokens", "960")
    assert refused.exit_code == 1
    assert "models/gru/1: was trained with training.max_tokens 640, not 960" in refused.output
    (tmp_path / "runs").rename(out / "runs")
    machine = ("--set", "training.threads=2", "--set", "training.device=cpu")
    done = invoke(book, out, "--cells", "gru", "--resume", *machine)
    assert done.exit_code == 0, done.output
    assert "gru-0: is trained already" in done.output


def test_a_folder_that_cannot_be_written_is_refused_before_texts_are_read(book: Path, tmp_path: Path) -> None:
    refused = invoke(tmp_path / "no such text", book / "out")
    assert refused.exit_code == 1
    assert refused.output.startswith(f"Error: {book / 'out'}: cannot be written: Not a directory; give another --out")


def test_seeds_are_counted_from_that_of_the_run(book: Path, tmp_path: Path) -> None:
    done = invoke(book, tmp_path / "out", "--cells", "gru", "--seeds", "2", "--set", "training.seed=7")
    assert done.exit_code == 0, done.output
    checkpoints = [load_checkpoint(tmp_path / "out" / "runs" / f"gru-{index}" / "best.pt") for index in (0, 1)]
    assert [checkpoint.training["config"]["training"]["seed"] for checkpoint in checkpoints] == [7, 8]


def test_the_speed_of_a_training_is_the_median_over_its_log(book: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke(book, out, "--cells", "gru")
    assert done.exit_code == 0, done.output
    log = out / "runs" / "gru-0" / "log.jsonl"
    line = json.loads(log.read_text().splitlines()[-1])
    log.write_text("".join(json.dumps(line | {"tokens_per_s": speed}) + "\n" for speed in (5000, 6000, 900)))
    done = invoke(book, out, "--cells", "gru", "--resume")
    assert done.exit_code == 0, done.output
    (row,) = json.loads((out / "results.json").read_text())["results"]
    assert row["tokens_per_s"] == 5000


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--cells", "lstm,qrnn"], 2, "'qrnn' is none of rnn, lstm, gru"),
        (["--cells", "gru,gru"], 2, "names one twice"),
        (["--set", "model.hiden_size=3"], 1, "model.hiden_size: no such key; is hidden_size meant?"),
        (["--parameters", "20"], 1, "no width gives 20 parameters"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    book: Path, tmp_path: Path, options: list[str], code: int, reason: str
) -> None:
    refused = invoke(book, tmp_path / "out", *options)
    assert refused.exit_code == code
    assert reason in refused.output


def test_a_budget_has_to_be_given(book: Path, tmp_path: Path) -> None:
    refused = CliRunner().invoke(compare, ["--data", str(book), "--out", str(tmp_path / "out")])
    assert refused.exit_code == 2
    assert "give the budget of each training: --max-minutes or --max-tokens" in refused.output
