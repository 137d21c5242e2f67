"""`hiddenstate inspect`: gradients against differences, gates against PyTorch, and the files that are written."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from architectures import STACKS
from bundles import language_model_bundle
from checkpoints import language_model_checkpoint, saved, sentence_encoder_checkpoint
from hiddenstate_exporter.cli import inspect
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.inspection.gates import gates_of_bundle, run_stack
from hiddenstate_exporter.inspection.gradient_flow import fresh_flow, gradient_norms
from hiddenstate_exporter.inspection.stack_weights import read_stack
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.networks.stack import advance
from hiddenstate_exporter.publishing.checkpoint_model import language_model_of, round_model, sentence_encoder_of
from hiddenstate_exporter.publishing.export import ExportOptions, export
from hiddenstate_server.bundle import VariantName, load_bundle

FP32: tuple[VariantName, ...] = ("fp32",)
SENTENCE = "I would like to thank the car"


def published(tmp_path: Path, checkpoint: Any) -> Path:
    return export(saved(checkpoint, tmp_path), ExportOptions(to=tmp_path / "models", variants=FP32))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(inspect, [str(argument) for argument in arguments], prog_name="hiddenstate inspect")


def test_a_gradient_is_how_the_loss_answers_to_a_small_change() -> None:
    torch.manual_seed(0)
    config = LanguageModelConfig(vocab_size=9, embedding_size=4, hidden_size=5, num_layers=2, connections="residual")
    model = LanguageModel(config)
    tokens = torch.tensor([[1, 2, 3, 4, 5]])
    norms = gradient_norms(model, tokens)
    embedded = model.embedding(tokens[:, :-1]).detach()

    def loss(values: torch.Tensor) -> float:
        logits = model.decoder(model.project(advance(model.rnn, values)[0][:, -1]))
        return nn.functional.cross_entropy(logits, tokens[:, -1]).item()

    for distance in range(4):
        slopes = []
        for component in range(4):
            up, down = embedded.clone(), embedded.clone()
            up[0, 3 - distance, component] += 1e-5
            down[0, 3 - distance, component] -= 1e-5
            slopes.append((loss(up) - loss(down)) / 2e-5)
        assert norms[distance] == pytest.approx(np.linalg.norm(slopes), rel=1e-5)


def test_the_gradient_of_a_plain_rnn_vanishes_and_that_of_an_lstm_does_much_later() -> None:
    flows = {
        cell: fresh_flow(cell, "none", num_layers=2, hidden_size=32, forget_bias=1.0, distance=60, contexts=4, seed=0)
        for cell in ("rnn", "lstm")
    }
    assert flows["lstm"].reach > 2 * flows["rnn"].reach
    assert flows["rnn"].norms[-1] < 1e-6 * flows["rnn"].norms[0]


def test_connections_past_the_layers_bring_the_gradient_to_the_bottom_of_a_deep_stack() -> None:
    near: dict[Connections, float] = {}
    for kind in ("none", "residual", "dense"):
        flow = fresh_flow("lstm", kind, num_layers=6, hidden_size=32, forget_bias=1.0, distance=10, contexts=4, seed=0)
        near[kind] = float(flow.norms[0])
    assert near["residual"] > 50 * near["none"]
    assert near["dense"] > 50 * near["none"]


@pytest.mark.parametrize(("cell", "connections"), [stack for stack in STACKS if stack[0] != "rnn"])
def test_layers_read_out_of_a_bundle_compute_what_pytorch_does(
    tmp_path: Path, cell: Cell, connections: Connections
) -> None:
    checkpoint = language_model_checkpoint(cell=cell, connections=connections, num_layers=3)
    bundle = published(tmp_path, checkpoint)
    model = language_model_of(checkpoint)
    round_model(model, "float16")
    shape, weights = read_stack(bundle, load_bundle(bundle))
    ids = [0, 5, 9, 7, 12]
    layers, outputs = run_stack(shape, weights, weights["embedding.weight"][ids])
    with torch.inference_mode():
        expected = model.outputs(torch.tensor([ids]))[0][0].numpy()
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert len(layers) == 3


def test_the_gates_of_an_lstm_are_those_that_pytorch_computes_with(tmp_path: Path) -> None:
    checkpoint = language_model_checkpoint(num_layers=1)
    found = gates_of_bundle(published(tmp_path, checkpoint), SENTENCE)
    model = language_model_of(checkpoint)
    round_model(model, "float16")
    assert found.words == ["<eos>", *SENTENCE.split()]
    rnn = model.rnn
    assert isinstance(rnn, nn.LSTM)
    vocabulary = json.loads(checkpoint.tokenizer)["model"]["vocab"]
    h = c = torch.zeros(1, rnn.hidden_size)
    with torch.inference_mode():
        for position, word in enumerate(found.words):
            x = model.embedding(torch.tensor([vocabulary[word]]))
            w_ih, w_hh, b_ih, b_hh = rnn.all_weights[0]
            rows = x @ w_ih.T + b_ih + h @ w_hh.T + b_hh
            i, f, g, o = rows.chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            for gate, values in (("input", i), ("forget", f), ("output", o)):
                actual = found.layers[0].gates[gate][position]
                np.testing.assert_allclose(actual, values.sigmoid()[0].numpy(), atol=1e-5)


def test_a_bidirectional_encoder_shows_both_directions(tmp_path: Path) -> None:
    checkpoint = sentence_encoder_checkpoint(cell="gru")
    found = gates_of_bundle(published(tmp_path, checkpoint), SENTENCE)
    model = sentence_encoder_of(checkpoint)
    round_model(model, "float16")
    vocabulary = json.loads(checkpoint.tokenizer)["model"]["vocab"]
    ids = torch.tensor([[vocabulary[word] for word in found.words]])
    with torch.inference_mode():
        expected = advance(model.rnn, model.embedding(ids))[0][0].numpy()
    np.testing.assert_allclose(found.outputs, expected, atol=1e-5)
    assert [layer.name for layer in found.layers] == [
        "layer 1 forwards",
        "layer 1 backwards",
        "layer 2 forwards",
        "layer 2 backwards",
    ]
    assert set(found.layers[0].gates) == {"reset", "update"}


def test_gates_are_written_as_numbers_and_as_a_picture(tmp_path: Path) -> None:
    bundle = language_model_bundle(tmp_path / "models")
    done = run("gates", bundle, SENTENCE, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "out" / "gates.csv").open()))
    content = json.loads((tmp_path / "out" / "gates.json").read_text())
    assert len(rows) == 2 * 3 * 8
    assert content["words"] == ["<eos>", *SENTENCE.split()]
    units = content["layers"][0]["forget"][3]
    row = next(r for r in rows if (r["layer"], r["gate"], r["position"]) == ("layer 1", "forget", "3"))
    assert row["word"] == "like"
    assert float(row["mean"]) == pytest.approx(np.mean(units), abs=1e-3)
    assert float(row["p10"]) <= float(row["p50"]) <= float(row["p90"])
    assert (tmp_path / "out" / "gates.png").read_bytes().startswith(b"\x89PNG")


def test_gradient_flow_is_written_as_numbers_and_as_a_picture(tmp_path: Path) -> None:
    options = "--num-layers 2 --hidden-size 8 --distance 30 --contexts 2 --cells rnn,gru --connections none,highway"
    done = run("gradient-flow", "--out", tmp_path / "out", *options.split())
    assert done.exit_code == 0, done.output
    rows = list(csv.reader((tmp_path / "out" / "gradient_flow.csv").open()))
    assert rows[0] == ["distance", "RNN", "RNN, highway", "GRU", "GRU, highway"]
    assert [row[0] for row in rows[1:]] == [str(k) for k in range(31)]
    content = json.loads((tmp_path / "out" / "gradient_flow.json").read_text())
    assert float(rows[5][3]) == pytest.approx(content[2]["norms"][4], rel=1e-4)
    assert (tmp_path / "out" / "gradient_flow.png").read_bytes().startswith(b"\x89PNG")


def test_trained_models_are_measured_on_a_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(["the car was not there"] * 20))
    path = saved(language_model_checkpoint(), tmp_path)
    done = run("gradient-flow", path, "--data", text, "--distance", 40, "--contexts", 3, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "run: a thousandth of the largest norm at distance" in done.output
    short = run("gradient-flow", path, "--data", text, "--distance", 4000, "--out", tmp_path)
    assert short.exit_code == 1
    assert "tokens of text, 4002 are needed for a distance of 4000" in short.output


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["gates", "RNN", SENTENCE], 1, "a plain RNN has no gates; give an LSTM or a GRU"),
        (["gates", "LSTM", "   "], 1, "the sentence has no words"),
        (["gates", "nowhere", SENTENCE], 1, "bundle.json: no such file"),
        (["gradient-flow", "--data", "text.txt"], 2, "CHECKPOINTS and --data go together"),
        (["gradient-flow", "--cells", "qrnn"], 2, "'qrnn' is none of rnn, lstm, gru"),
    ],
)
def test_what_cannot_be_looked_into_is_refused(tmp_path: Path, arguments: list[str], code: int, reason: str) -> None:
    made = {
        "RNN": language_model_bundle(tmp_path / "models", name="rnn", cell="rnn"),
        "LSTM": language_model_bundle(tmp_path / "models", name="lstm"),
    }
    refused = run(*(made.get(word, word) for word in arguments), "--out", tmp_path)
    assert refused.exit_code == code, refused.output
    assert reason in refused.output
