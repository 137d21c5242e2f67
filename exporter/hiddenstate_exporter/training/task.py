"""What the training loop needs to know about the thing that it trains."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from hiddenstate_exporter.training.checkpoint import Kind

Batch = TypeVar("Batch")


class Task(Protocol[Batch]):
    """What is trained. All randomness outside `batches` comes from torch's global generator."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def metric(self) -> str:
        """The name of what `validate` returns, such as "perplexity"."""

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def tokens_per_step(self) -> float:
        """How many tokens a step covers, about."""

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yields `steps_per_epoch` batches; the same ones each time it is called with the same epoch."""

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Returns the mean loss (a scalar with a gradient) and how many tokens it covers."""

    def lr_scale(self, batch: Batch) -> float:
        """Returns what the learning rate is multiplied with for this batch: 1 where all are alike."""

    def validate(self) -> float:
        """Returns the validation number: lower is better. Called in eval mode without gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what the task carries from one batch to the next (empty if nothing)."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` returned; raises ValueError if it does not fit this task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is written into every checkpoint beside the weights."""

    kind: Kind
    config: Mapping[str, Any]
    tokenizer: str
    data: str
    command: str
    run: Mapping[str, Any] = field(default_factory=dict)  # the tables of `run_config`
    config_defaults: Mapping[str, Any] = field(default_factory=dict)  # of fields that older checkpoints lack
