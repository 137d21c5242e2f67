"""The fused loss, against PyTorch's."""

import pytest
import torch
from torch.nn import functional

from hiddenstate_exporter.training import fused_cross_entropy as fused


@pytest.mark.parametrize("part", [1, 70, 10_000])  # rows of one, three, and all of them together
def test_loss_and_gradients_are_those_of_pytorch(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "PART", part)
    torch.manual_seed(0)
    decoder, targets = torch.nn.Linear(5, 23).double(), torch.randint(23, (17,))
    rows = torch.randn(17, 5, dtype=torch.double, requires_grad=True)
    expected = functional.cross_entropy(decoder(rows), targets)
    wanted = torch.autograd.grad(3 * expected, [rows, *decoder.parameters()])
    loss = fused.fused_cross_entropy(rows, targets, decoder)
    actual = torch.autograd.grad(3 * loss, [rows, *decoder.parameters()])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(actual, wanted)


def test_large_logits_do_not_overflow() -> None:
    decoder = torch.nn.Linear(2, 3)
    loss = fused.fused_cross_entropy(torch.full((4, 2), 1e5), torch.tensor([0, 1, 2, 0]), decoder)
    assert torch.isfinite(loss)
