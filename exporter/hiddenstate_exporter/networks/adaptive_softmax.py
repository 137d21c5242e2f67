"""The adaptive softmax: a decoder for large vocabularies that spends most of its work on the frequent words.

Grave, Joulin, Cissé, Grangier & Jégou, "Efficient softmax approximation for GPUs" (2017). Words are numbered by falling
frequency and cut into clusters: the head knows the first one and how likely each other cluster is, the words of which
have narrower and narrower vectors.
"""

import itertools
from collections.abc import Sequence
from typing import Final, Literal

from torch import Tensor, nn

Head = Literal["softmax", "adaptive_softmax"]

DIV_VALUE: Final = 4.0


class AdaptiveSoftmax(nn.AdaptiveLogSoftmaxWithLoss):
    """PyTorch's module in the place of a linear decoder; word ids must rise as frequency falls."""

    def __init__(self, in_features: int, vocab_size: int, cutoffs: Sequence[int], div_value: float) -> None:
        """`cutoffs` are the first ids of the clusters behind the head."""
        super().__init__(in_features, vocab_size, list(cutoffs), div_value=div_value, head_bias=True)

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]  # torch's takes targets: see `loss`
        """Returns log probabilities [..., vocab_size] of features [..., in_features]."""
        return self.log_prob(features.flatten(0, -2)).reshape(*features.shape[:-1], self.n_classes)

    def loss(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean cross-entropy of rows [rows, in_features] with targets int64 [rows].

        Only the clusters that have a target among these are computed.
        """
        loss: Tensor = super().forward(rows, targets).loss
        return loss


def check_clusters(in_features: int, vocab_size: int, cutoffs: Sequence[int], div_value: float) -> None:
    """Checks the options of an adaptive softmax.

    Raises:
        ValueError: one is out of range; the message names it.
    """
    edges = [0, *cutoffs, vocab_size]
    if not cutoffs or any(low >= high for low, high in itertools.pairwise(edges)):
        raise ValueError(f"cutoffs are {list(cutoffs)}, must be rising ids between 1 and {vocab_size - 1}")
    narrowest = tail_width(in_features, len(cutoffs) - 1, div_value) if div_value > 0 else 0
    if narrowest < 1:
        raise ValueError(
            f"div_value is {div_value:g}, which leaves the last of {len(cutoffs)} clusters less than one of "
            f"{in_features} components; make it or the number of cutoffs smaller"
        )


def tail_width(in_features: int, cluster: int, div_value: float) -> int:
    """Returns how wide the vectors of a cluster behind the head are, as PyTorch computes it."""
    return int(in_features // div_value ** (cluster + 1))
