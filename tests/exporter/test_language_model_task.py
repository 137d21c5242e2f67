"""How a language model reads its training text, and how it is measured."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.networks.regularization import Regularization
from hiddenstate_exporter.training.language_model_task import LanguageModelTask, score
from hiddenstate_exporter.training.run_config import BatchConfig

VOCAB = 12


def make_model(**changes: Any) -> LanguageModel:
    torch.manual_seed(3)
    shape = {"vocab_size": VOCAB, "embedding_size": 6, "hidden_size": 8, "num_layers": 1} | changes
    return LanguageModel(LanguageModelConfig(**shape)).eval()


def make_task(tokens: int = 100, **changes: Any) -> LanguageModelTask:
    settings: dict[str, Any] = {"batch_size": 3, "bptt": 5} | changes
    return LanguageModelTask(
        make_model(), torch.arange(tokens) % VOCAB, torch.arange(40) % VOCAB, batches=BatchConfig(**settings)
    )


def test_the_target_of_each_token_is_the_one_after_it() -> None:
    for window in make_task().batches(0):
        assert window.inputs.shape == window.targets.shape == (3, 5)
        assert torch.equal((window.inputs + 1) % VOCAB, window.targets)


def test_each_row_continues_in_the_next_window() -> None:
    task = make_task()
    windows = list(task.batches(0))
    assert len(windows) == task.steps_per_epoch
    assert [window.first for window in windows] == [True] + [False] * (len(windows) - 1)
    for before, after in itertools.pairwise(windows):
        assert torch.equal(before.targets[:, -1], after.inputs[:, 0])


def test_an_epoch_is_the_same_each_time_and_cut_elsewhere_than_the_next() -> None:
    task = make_task(tokens=400)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(task.batches(1), task.batches(1), strict=True))
    firsts = {int(next(task.batches(epoch)).inputs[0, 0]) for epoch in range(10)}
    assert len(firsts) > 1


@pytest.mark.parametrize("tokens", range(20, 40))
def test_every_epoch_has_all_its_windows_whatever_the_length_of_the_text(tokens: int) -> None:
    task = make_task(tokens=tokens)
    for epoch in range(8):
        assert len(list(task.batches(epoch))) == task.steps_per_epoch >= 1


def test_a_text_shorter_than_one_batch_is_refused_with_the_need() -> None:
    with pytest.raises(
        ValueError, match=r"19 tokens of training text, 20 or more .*: give more text, or a smaller batches\.batch"
    ):
        make_task(tokens=19)


def test_the_state_of_one_window_is_where_the_next_begins() -> None:
    task = make_task(fresh_start=0.0)
    windows = list(task.batches(0))
    losses = [task.loss(window)[0].item() for window in windows]
    logits, _ = task.model(torch.cat([window.inputs for window in windows], 1))
    targets = torch.cat([window.targets for window in windows], 1)
    exact = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert sum(losses) / len(losses) == pytest.approx(exact, rel=1e-5)


def test_some_rows_begin_without_a_past() -> None:
    task = make_task(tokens=4000, batch_size=100)
    windows = task.batches(0)
    task.loss(next(windows))
    carried = task.state_dict()["state"]
    torch.manual_seed(1)
    second = next(windows)
    loss = task.loss(second)[0].item()
    with_all, _ = task.model(second.inputs, carried)
    assert loss != pytest.approx(F.cross_entropy(with_all.flatten(0, 1), second.targets.flatten()).item(), rel=1e-6)


def test_windows_of_variable_length_cover_the_text_and_scale_the_rate() -> None:
    task = make_task(tokens=12_000, bptt=20, variable_bptt=True)
    windows = list(task.batches(0))
    lengths = [window.inputs.shape[1] for window in windows]
    assert len(windows) == task.steps_per_epoch
    assert sum(lengths) == 20 * task.steps_per_epoch
    assert len(set(lengths)) > 5
    assert min(lengths) < 15
    for before, after in itertools.pairwise(windows):
        assert torch.equal(before.targets[:, -1], after.inputs[:, 0])
    assert [task.lr_scale(window) for window in windows] == [length / 20 for length in lengths]
    assert [w.inputs.shape[1] for w in task.batches(0)] == lengths != [w.inputs.shape[1] for w in task.batches(1)]


@pytest.mark.parametrize("tokens", [25, 31, 60, 333])
def test_variable_windows_are_never_empty(tokens: int) -> None:
    task = make_task(tokens=tokens, variable_bptt=True)
    for epoch in range(20):
        windows = list(task.batches(epoch))
        assert len(windows) == task.steps_per_epoch
        assert all(window.inputs.shape[1] for window in windows)


def test_activation_penalties_are_added_to_the_loss() -> None:
    plain, penalised = make_task(), make_task()
    penalised.model.regularization = Regularization(dropout=0.0, activation=2.0, temporal_activation=3.0)
    window = next(plain.batches(0))
    features, _ = plain.model.features(window.inputs)
    outputs, _ = plain.model.outputs(window.inputs)
    expected = 2.0 * features.square().mean() + 3.0 * (outputs[:, 1:] - outputs[:, :-1]).square().mean()
    assert (penalised.loss(window)[0] - plain.loss(window)[0]).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_compiled_network_is_asked_for_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compiled(function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            calls.append(function.__name__)
            return function(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    task = make_task()
    task.compile()
    task.loss(next(task.batches(0)))
    assert calls == ["features_and_outputs"]


def test_the_gradient_does_not_reach_into_the_window_before() -> None:
    task = make_task()
    windows = task.batches(0)
    task.loss(next(windows))
    h, c = task.state_dict()["state"]
    assert not h.requires_grad
    assert not c.requires_grad


def test_a_task_does_not_take_up_the_state_of_other_windows() -> None:
    state = make_task().state_dict()
    make_task().load_state_dict(state)
    with pytest.raises(ValueError, match="has batch_size 3, not 2; resume with the same"):
        make_task(batch_size=2).load_state_dict(state)
    with pytest.raises(ValueError, match="has tokens 100, not 99"):
        make_task(tokens=99).load_state_dict(state)


def test_perplexity_is_that_of_the_plain_formula() -> None:
    model = make_model()
    stream = torch.randint(VOCAB, (161,), generator=torch.Generator().manual_seed(2))
    logits = torch.cat([model(row[None, :-1])[0] for row in stream.unfold(0, 41, 40)])
    wanted = torch.stack([row[1:] for row in stream.unfold(0, 41, 40)])
    exact = math.exp(F.cross_entropy(logits.flatten(0, 1), wanted.flatten()).item())
    assert score(model, stream, special_ids=(), rows=4, seq_len=7).perplexity == pytest.approx(exact, rel=1e-5)


def test_an_untrained_model_is_as_good_as_guessing() -> None:
    stream = torch.randint(VOCAB, (2000,), generator=torch.Generator().manual_seed(2))
    assert score(make_model(), stream, special_ids=()).perplexity == pytest.approx(VOCAB, rel=0.1)


def test_accuracy_counts_words_only_and_never_guesses_a_special_token() -> None:
    model = make_model(embedding_size=4, hidden_size=4)
    assert isinstance(model.decoder, torch.nn.Linear)
    with torch.no_grad():  # whatever was read, the order of guesses is 0, 1, 5, 4, 3, ...
        model.decoder.weight.zero_()
        model.decoder.bias.copy_(torch.tensor([9.0, 8.0, 1.0, 2.0, 3.0, 4.0] + [0.0] * (VOCAB - 6)))
    #  targets:                  end, hit, third, miss, unknown, end, hit
    stream = torch.tensor([7, 0, 5, 3, 2, 1, 0, 5])
    scores = score(model, stream, special_ids=(0, 1), unk_id=1, rows=1)
    assert scores.top1_accuracy == pytest.approx(2 / 5)
    assert scores.top3_accuracy == pytest.approx(3 / 5)
    assert scores.unk_rate == pytest.approx(1 / 7)


def test_there_must_be_something_to_measure_on() -> None:
    with pytest.raises(ValueError, match="nothing to measure on"):
        score(make_model(), torch.tensor([0]), special_ids=())
