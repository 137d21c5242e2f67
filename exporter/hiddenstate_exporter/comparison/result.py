"""What is known of a contender after its training."""

import statistics

import msgspec

from hiddenstate_exporter.graphs.stack_shape import Cell, Connections


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table. Perplexities are on held-out text, one for each seed."""

    name: str
    cell: Cell
    connections: Connections
    hidden_size: int
    parameters: int
    perplexities: list[float]
    tokens_per_s: float  # in training, the median over validations
    epochs: float
    seconds: float  # of training, of one seed
    bundle_bytes: int
    ms_per_token: float = 0.0  # of one context: a token through the layers and the head, on one thread

    @property
    def perplexity(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.perplexities)
