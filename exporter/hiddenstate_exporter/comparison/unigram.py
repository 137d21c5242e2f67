"""What word frequencies alone know of a text: the least that a language model has to beat."""

import math

import torch
from torch import Tensor


def unigram_perplexity(train: Tensor, test: Tensor, vocab_size: int) -> float:
    """Returns the perplexity of `test` where each token is as likely as it is frequent in `train`; int64 [tokens].

    A token that `train` lacks counts as one that is there once. The first token of a stream is never predicted.
    """
    counts = torch.bincount(train[1:], minlength=vocab_size).clamp(min=1).double()  # [vocab]
    log_shares = (counts / counts.sum()).log()
    return math.exp(-log_shares[test[1:]].mean().item())
