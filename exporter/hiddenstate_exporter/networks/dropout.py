"""Dropout whose masks last longer than one step: Gal & Ghahramani, "A Theoretically Grounded Application of Dropout in
Recurrent Neural Networks" (2016)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class LockedDropout(nn.Module):
    """Dropout with one mask for all steps of a sequence, another one for each sequence."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Drops components of x [batch, seq, width]."""
        if not self.training or not self.share:
            return x
        return x * functional.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.share)


class WordDropout(nn.Module):
    """Takes words out of a window: each is there everywhere or nowhere."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, embedded: Tensor, tokens: Tensor, vocab_size: int) -> Tensor:
        """Drops rows of embedded [batch, seq, width], by their tokens int64 [batch, seq]."""
        if not self.training or not self.share:
            return embedded
        kept = functional.dropout(torch.ones(vocab_size, device=embedded.device), self.share)  # [vocab_size]
        return embedded * kept[tokens][..., None]


def drop_weights(weight: Tensor, share: float) -> Tensor:
    """Returns a weight with some of its values dropped and the others scaled up: DropConnect, Wan et al. (2013).

    The mask is made of floats, which PyTorch fills in parallel; the boolean one of its own dropout takes longer.
    """
    if not share:
        return weight
    return weight * torch.empty_like(weight).bernoulli_(1 - share).div_(1 - share)


def make_dropout(share: float, *, locked: bool) -> nn.Module:
    """Makes dropout of either kind."""
    return LockedDropout(share) if locked else nn.Dropout(share)
