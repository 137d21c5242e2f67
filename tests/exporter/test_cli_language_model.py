"""`hiddenstate train language-model`, as a person runs it, on a book of a few words."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hiddenstate_exporter.cli import train
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.publishing.export import ExportOptions, export
from hiddenstate_exporter.training.checkpoint import load_checkpoint
from hiddenstate_exporter.training.corpus import read_sources, split
from hiddenstate_exporter.training.language_model_task import LanguageModelTask
from hiddenstate_exporter.training.vocabulary import tokenizer_from_text

SMALL = "--vocab-size 17 --embedding-size 16 --hidden-size 16 --num-layers 1 --batch-size 4 --bptt 8 --threads 1"
NAMES = ("Anna", "Bert", "Carla", "Dora", "Emil")
VERBS = {"Anna": "reads", "Bert": "sleeps", "Carla": "sings", "Dora": "cooks", "Emil": "writes"}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Sentences in which the name decides the verb."""
    dice = random.Random(4)
    lines = []
    for _ in range(400):
        name = dice.choice(NAMES)
        lines.append(f"{name} {VERBS[name]} on {dice.choice(('Monday', 'Tuesday'))} {dice.choice('.!')}")
    path = tmp_path / "book.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def invoke(book: Path, run_dir: Path, options: str = "") -> Result:
    size = SMALL
    arguments = ["language-model", "--data", str(book), "--run-dir", str(run_dir), *size.split(), *options.split()]
    return CliRunner().invoke(train, arguments, prog_name="hiddenstate train")


def test_a_model_learns_what_can_be_learnt_and_its_checkpoint_can_be_used(book: Path, tmp_path: Path) -> None:
    result = invoke(book, tmp_path / "run", "--max-epochs 12 --lr 0.02 --data-description Sentences")
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "best.pt")
    # A name, its verb, "on", a day, a sign, the end: 5, 1, 1, 2, 2, 1 choices: (5 * 2 * 2) ** (1 / 6) = 1.65.
    assert 1.5 < checkpoint.metrics["perplexity"] < 1.9
    # Right on average: 3.2 of the 5 words at once, 4.6 within three; the test text has some ten sentences.
    assert checkpoint.metrics["top1_accuracy"] > 0.5
    assert checkpoint.metrics["top3_accuracy"] > 0.75
    assert checkpoint.metrics["unk_rate"] == 0.0
    assert checkpoint.training["data"] == "Sentences"
    assert checkpoint.training["command"].startswith("hiddenstate train language-model --data ")
    assert "--data-description" not in checkpoint.training["command"]
    assert f"publish it with: hiddenstate export {tmp_path / 'run' / 'best.pt'}" in result.output
    model = LanguageModel(LanguageModelConfig.from_dict(dict(checkpoint.config))).eval()
    model.load_state_dict(dict(checkpoint.model))
    tokenizer = tokenizer_from_text(checkpoint.tokenizer)
    import torch

    logits, _ = model(torch.tensor([tokenizer.encode("<eos> Carla").ids]))
    assert tokenizer.id_to_token(int(logits[0, -1].argmax())) == "sings"


def test_without_a_size_the_vocabulary_is_what_a_small_text_has(book: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(book), "--run-dir", str(tmp_path / "run"), *SMALL.split()[2:], "--max-epochs", "1"]
    result = CliRunner().invoke(train, ["language-model", *arguments], prog_name="hiddenstate train")
    assert result.exit_code == 0, result.output
    assert "vocabulary: 17, all words of the text" in result.output
    assert load_checkpoint(tmp_path / "run" / "best.pt").config["vocab_size"] == 17
    resumed = CliRunner().invoke(train, ["language-model", *arguments, "--resume"], prog_name="hiddenstate train")
    assert resumed.exit_code == 0, resumed.output


def test_the_sampled_loss_learns_the_same(book: Path, tmp_path: Path) -> None:
    result = invoke(book, tmp_path / "run", "--max-epochs 12 --lr 0.02 --sampled-softmax 6 --precision auto")
    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "run" / "best.pt").metrics["perplexity"] < 2.0


@pytest.mark.parametrize(
    "stack",
    [
        "--cell rnn --connections residual --num-layers 2",
        "--cell lstm --connections dense --num-layers 3 --forget-bias 2 --precision auto",
        "--cell gru --connections highway --num-layers 3 --sampled-softmax 6",
    ],
)
def test_every_kind_of_stack_is_trained_resumed_and_exported(book: Path, tmp_path: Path, stack: str) -> None:
    assert invoke(book, tmp_path / "run", f"--max-epochs 2 --lr 0.02 --schedule plateau {stack}").exit_code == 0
    result = invoke(book, tmp_path / "run", f"--max-epochs 4 --lr 0.02 --schedule plateau {stack} --resume")
    assert result.exit_code == 0, result.output
    path = tmp_path / "run" / "best.pt"
    assert load_checkpoint(path).metrics["perplexity"] < 4  # 17 before training
    folder = export(path, ExportOptions(to=tmp_path / "models"))
    cell, connections = stack.split()[1], stack.split()[3]
    assert f"{cell.upper()} " in (folder / "README.md").read_text(encoding="utf-8")
    assert f"with {connections} connections" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_resumed_run_shows_the_command_that_began_it_and_what_changed(book: Path, tmp_path: Path) -> None:
    run_dir, last = tmp_path / "run", tmp_path / "run" / "last.pt"

    def resume(*options: str) -> str:
        arguments = ["language-model", "--run-dir", str(run_dir), "--resume", *options]
        result = CliRunner().invoke(train, arguments, prog_name="hiddenstate train")
        assert result.exit_code == 0, result.output
        return str(load_checkpoint(last).training["command"])

    assert invoke(book, run_dir, "--max-epochs 1").exit_code == 0
    began = load_checkpoint(last).training["command"]
    assert resume() == began
    changed = f"{began}\nhiddenstate train language-model --run-dir {run_dir} --max-epochs 2 --resume"
    assert resume("--max-epochs", "2") == changed
    assert resume() == changed


def test_a_resumption_that_was_refused_leaves_the_run_as_it_was(book: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert invoke(book, run_dir, "--max-epochs 1").exit_code == 0
    before = (run_dir / "config.toml").read_bytes()
    refused = invoke(book, run_dir, "--resume --num-layers 2")
    assert refused.exit_code == 1
    assert "was trained with num_layers 1, not 2" in refused.output
    assert (run_dir / "config.toml").read_bytes() == before


def test_a_run_whose_time_is_up_before_its_first_validation_is_measured(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = LanguageModelTask.loss

    def interrupted(task: LanguageModelTask, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return loss(task, batch)

    with monkeypatch.context() as patched:
        patched.setattr(LanguageModelTask, "loss", interrupted)
        assert "interrupted" in invoke(book, tmp_path / "run").output
    best = tmp_path / "run" / "best.pt"
    best.unlink()  # as if it had been killed after last.pt was written
    for _ in range(2):
        result = invoke(book, tmp_path / "run", "--resume --max-minutes 0.000001")
        assert result.exit_code == 0, result.output
        assert "the time is up" in result.output
        metrics = load_checkpoint(best).metrics
        assert metrics["perplexity"] > 1
        assert "valid_perplexity" not in metrics


def test_a_run_is_not_resumed_with_another_stack(book: Path, tmp_path: Path) -> None:
    assert invoke(book, tmp_path / "run", "--max-epochs 1 --cell gru").exit_code == 0
    for options, reason in (
        ("--cell lstm", "was trained with cell gru, not lstm"),
        ("--cell gru --connections dense", "was trained with connections none, not dense"),
    ):
        result = invoke(book, tmp_path / "run", f"--max-epochs 2 --resume {options}")
        assert result.exit_code == 1
        assert reason in result.output


def test_a_forget_bias_is_refused_for_a_cell_that_forgets_nothing(book: Path, tmp_path: Path) -> None:
    result = invoke(book, tmp_path / "run", "--cell gru --forget-bias 2")
    assert result.exit_code == 2
    assert "--forget-bias is for --cell lstm, not for --cell gru" in result.output


def test_the_test_text_is_neither_trained_on_nor_validated_on(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    initialize = LanguageModelTask.__init__

    def spy(self: LanguageModelTask, model: LanguageModel, *streams: Any, **settings: Any) -> None:
        seen["streams"] = streams
        initialize(self, model, *streams, **settings)

    monkeypatch.setattr(LanguageModelTask, "__init__", spy)
    assert invoke(book, tmp_path / "run", "--max-epochs 1").exit_code == 0
    parts = split(read_sources([str(book)]))
    tokens = [sum(len(p.split()) + 1 for p in part) + 1 for part in (parts.train, parts.valid)]
    assert [len(stream) for stream in seen["streams"]] == tokens


def test_ctrl_c_keeps_the_weights_and_the_same_command_with_resume_goes_on(book: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    script = "from hiddenstate_exporter.cli import train; train(prog_name='hiddenstate train')"
    arguments = ["--data", str(book), "--run-dir", str(run_dir), *SMALL.split()]
    command = [
        sys.executable,
        "-c",
        script,
        "language-model",
        *arguments,
        "--max-epochs",
        "100000",
        "--patience",
        "999",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "valid perplexity" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait() == 130
    assert "interrupted (the same command with --resume continues)" in rest
    assert f"kept in {run_dir / 'best.pt'}" in rest
    epochs = load_checkpoint(run_dir / "last.pt").training["epochs"]
    result = invoke(book, run_dir, f"--max-epochs {int(epochs) + 1} --resume")
    assert result.exit_code == 0, result.output
    assert load_checkpoint(run_dir / "last.pt").training["epochs"] == int(epochs) + 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--bidirectional", "a bidirectional model reads the next word, so it cannot predict it"),
        ("--vocab-size 5000", "a vocabulary of 5000 is asked for, but the text supports only 17"),
        ("--batch-size 4000", "tokens of training text, 32008 or more are needed for one batch"),
        ("--resume", "last.pt: no such file; there is nothing to resume"),
        ("--data /no/such/file", "/no/such/file: no such file or folder"),
        ("--data package:no_such_package", "package:no_such_package: no such package is installed"),
    ],
)
def test_what_cannot_work_ends_with_one_line_that_says_why(
    book: Path, tmp_path: Path, options: str, reason: str
) -> None:
    result = invoke(book, tmp_path / "run", options)
    assert result.exit_code == 1
    assert reason in result.output
    assert result.output.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.output


def test_a_diverging_run_ends_with_one_line(book: Path, tmp_path: Path) -> None:
    result = invoke(book, tmp_path / "run", "--lr 1e30 --clip 1e30")
    assert result.exit_code == 1
    assert "is not finite at step" in result.output
    assert "try a lower optimizer.lr or optimizer.clip" in result.output


@pytest.mark.parametrize(
    "option",
    [
        "--cell qrnn",
        "--connections u-net",
        "--num-layers 9",
        "--dropout 1",
        "--lr 0",
        "--max-minutes 0",
        "--optimizer adagrad",
    ],
)
def test_values_out_of_range_are_refused_by_option(book: Path, tmp_path: Path, option: str) -> None:
    result = invoke(book, tmp_path / "run", option)
    assert result.exit_code == 2
    assert f"Invalid value for '{option.split()[0]}'" in result.output


def test_help_shows_examples_and_does_not_load_torch() -> None:
    script = (
        "import sys; from hiddenstate_exporter.cli import train\n"
        "try: train(['language-model', '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "Examples:" in output
    assert "--resume" in output
    assert output.splitlines()[-1] == "False"
