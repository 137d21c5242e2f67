"""The sampled loss against the exact one."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from hiddenstate_exporter.training.sampled_softmax import SampledSoftmax

VOCAB, WIDTH, ROWS = 200, 8, 64


def make_problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, nn.Linear]:
    """Returns word counts, features, targets and a decoder; frequent words have low ids."""
    generator = torch.Generator().manual_seed(5)
    counts = (10_000 / torch.arange(1, VOCAB + 1)).long()
    features = torch.randn(ROWS, WIDTH, generator=generator, requires_grad=True)
    torch.manual_seed(5)
    return counts, features, torch.multinomial(counts.float(), ROWS, replacement=True), nn.Linear(WIDTH, VOCAB)


def test_with_every_word_drawn_it_is_the_exact_loss() -> None:
    counts, features, targets, decoder = make_problem()
    exact = F.cross_entropy(decoder(features), targets)
    sampled = SampledSoftmax(counts, samples=1_000_000)(features, targets, decoder)
    torch.testing.assert_close(sampled, exact, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(exact, [features, decoder.weight, decoder.bias])
    got = torch.autograd.grad(sampled, [features, decoder.weight, decoder.bias])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_with_few_words_drawn_it_is_near_the_exact_loss_on_average() -> None:
    counts, features, _, decoder = make_problem()
    loss = SampledSoftmax(counts, samples=30)
    exact, sampled = [], []
    with torch.no_grad():
        for _ in range(400):  # new targets each time: they are candidates too, and must be counted as such
            targets = torch.multinomial(counts.float(), ROWS, replacement=True)
            exact.append(F.cross_entropy(decoder(features), targets))
            sampled.append(loss(features, targets, decoder))
    difference = torch.stack(sampled).mean() - torch.stack(exact).mean()
    assert abs(difference.item()) < 0.05


def test_only_candidates_get_a_gradient_and_targets_are_always_candidates() -> None:
    counts, features, targets, decoder = make_problem()
    SampledSoftmax(counts, samples=5)(features, targets, decoder).backward()
    assert decoder.bias.grad is not None
    touched = set(decoder.bias.grad.nonzero()[:, 0].tolist())
    assert set(targets.tolist()) <= touched
    assert len(touched) <= len(set(targets.tolist())) + 5


def test_words_that_never_occurred_can_be_drawn_and_be_targets() -> None:
    counts, features, _, decoder = make_problem()
    counts[-50:] = 0
    loss = SampledSoftmax(counts, samples=20)
    assert loss.proposal.min() > 0
    assert torch.isfinite(loss(features, torch.full((ROWS,), VOCAB - 1), decoder))
