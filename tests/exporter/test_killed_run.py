"""A run that is killed goes on to the numbers of one that was not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hiddenstate_exporter.training.checkpoint import load_checkpoint

RUN = """
[data]
train = ["{folder}/train.txt"]
valid = ["{folder}/valid.txt"]
test = ["{folder}/valid.txt"]
split = "whitespace"

[model]
embedding_size = 8
hidden_size = 8
num_layers = 2

[regularization]
dropout = 0.2
locked = true
embedding_dropout = 0.1
weight_drop = 0.3
activation = 1.0
temporal_activation = 1.0

[batches]
batch_size = 4
bptt = 10
variable_bptt = true
sampled_softmax = {sampled}

[optimizer]
name = "{optimizer}"
lr = {lr}
non_monotone = 1

[training]
max_epochs = 6
patience = 100
validations_per_epoch = 2
threads = 1
"""


def command(folder: Path, run_dir: Path, *more: str) -> list[str]:
    script = "from hiddenstate_exporter.cli import train; train(prog_name='hiddenstate train')"
    arguments = ["language-model", "--config", str(folder / "run.toml"), "--run-dir", str(run_dir), *more]
    return [sys.executable, "-c", script, *arguments]


@pytest.mark.parametrize(("optimizer", "lr", "sampled"), [("nt-asgd", 20.0, 0), ("adamw", 0.05, 6)])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_numbers_as_an_unbroken_one(
    tmp_path: Path, optimizer: str, lr: float, sampled: int
) -> None:
    dice = torch.Generator().manual_seed(1)
    for name, lines in (("train", 120), ("valid", 30)):
        words = torch.randint(12, (lines, 9), generator=dice).tolist()
        (tmp_path / f"{name}.txt").write_text("\n".join(" ".join(f"w{i}" for i in line) for line in words))
    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path, optimizer=optimizer, lr=lr, sampled=sampled))
    subprocess.run(command(tmp_path, tmp_path / "whole"), check=True, stdout=subprocess.DEVNULL)

    broken = tmp_path / "broken"
    with subprocess.Popen(command(tmp_path, broken), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += "valid perplexity" in line
            if seen == 5:  # of twelve validations
                process.kill()
                break
        process.stdout.read()
        assert process.wait() == -signal.SIGKILL
    last = load_checkpoint(broken / "last.pt")
    assert last.training["epochs"] < 6
    subprocess.run(command(tmp_path, broken, "--resume"), check=True, stdout=subprocess.DEVNULL)

    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "broken")
    ]
    numbers = [[(r["step"], r["train_loss"], r["valid_perplexity"], r["best"]) for r in log] for log in logs]
    assert len(numbers[0]) == 12
    assert numbers[0] == numbers[1]
    for name in ("best.pt", "last.pt"):
        one, other = (load_checkpoint(tmp_path / run / name) for run in ("whole", "broken"))
        assert all(torch.equal(one.model[key], other.model[key]) for key in one.model)
    state = load_checkpoint(broken / "last.pt").optimizer
    assert state is not None
    assert optimizer != "nt-asgd" or state["average"]["mean"], "averaging is to have begun, or it was not tested"
    assert os.listdir(broken / "tensorboard")  # noqa: PTH208
