"""A softmax loss over a sample of the vocabulary: the output layer is most of the cost of a word-level model.

Importance sampling of the partition sum as in Bengio & Senécal (2003) and Jean et al., "On Using Very Large Target
Vocabulary" (2015), with the targets of the whole batch serving as candidates beside the drawn ones.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

FLATTENING = 0.75  # of the unigram distribution that negatives are drawn from: Mikolov et al. (2013)


class SampledSoftmax(nn.Module):
    """Estimates the mean cross-entropy of rows over the whole vocabulary from a few thousand candidates.

    A word is a candidate if it is anybody's target in the batch or among `samples` draws. Its weight in the partition
    sum is one over the probability of being a candidate, which makes the sum right on average; a row's own target is
    always there, so its weight is one.
    """

    unigram: Tensor
    proposal: Tensor

    def __init__(self, counts: Tensor, samples: int) -> None:
        """Takes how often each word occurs in the training text, int64 [vocab_size], and how many draws to make."""
        super().__init__()
        smoothed = counts.double() + 1  # no word is impossible
        flat = smoothed**FLATTENING
        self.register_buffer("unigram", (smoothed / smoothed.sum()).float())
        self.register_buffer("proposal", (flat / flat.sum()).float())
        self.samples = samples

    def forward(self, features: Tensor, targets: Tensor, decoder: nn.Linear) -> Tensor:
        """Returns the estimated loss, a scalar; features [rows, features_size], targets int64 [rows]."""
        candidates, positions = self._candidates(targets)  # [candidates], [rows]
        logits = F.linear(features, decoder.weight[candidates], decoder.bias[candidates])  # [rows, candidates]
        log_weight = -self._log_inclusion(candidates, len(targets))
        # The target's own weight is one, so what the row adds for all candidates is taken back for it.
        offsets = log_weight.repeat(len(targets), 1)  # [rows, candidates]
        offsets.scatter_(1, positions[:, None], 0.0)
        return F.cross_entropy(logits.float() + offsets, positions)

    def _candidates(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the candidates' ids in rising order, and where among them each row's target is."""
        chosen = torch.zeros_like(self.proposal, dtype=torch.bool)
        chosen[targets] = True
        chosen[torch.multinomial(self.proposal, self.samples, replacement=True)] = True
        return chosen.nonzero()[:, 0], (chosen.cumsum(0) - 1)[targets]

    def _log_inclusion(self, candidates: Tensor, rows: int) -> Tensor:
        """Returns the log probability of each candidate to be one (number of occurrences taken as Poisson)."""
        expected = self.samples * self.proposal[candidates] + rows * self.unigram[candidates]
        return torch.log(-torch.expm1(-expected))
