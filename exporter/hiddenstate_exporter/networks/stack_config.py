"""What the configs of all recurrent models have in common."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self, get_args

from hiddenstate_exporter.graphs.stack_shape import MAX_LAYERS, Cell, Connections, StackShape


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """Vocabulary, embedding and recurrent layers.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int  # of one direction
    num_layers: int
    cell: Cell = "lstm"
    connections: Connections = "none"  # between layers
    bidirectional: bool = False
    dropout: float = 0.0  # in training only
    forget_bias: float | None = None  # of LSTM cells when training begins; None: drawn, as PyTorch does

    def __post_init__(self) -> None:
        self.check_sizes("vocab_size", "embedding_size", "hidden_size", "num_layers")
        if self.num_layers > MAX_LAYERS:
            raise ValueError(f"num_layers is {self.num_layers}, must be 1 to {MAX_LAYERS}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, must be in [0, 1)")
        self.check_choice("cell", get_args(Cell))
        self.check_choice("connections", get_args(Connections))

    @property
    def shape(self) -> StackShape:
        """The sizes of the recurrent layers."""
        return StackShape(
            cell=self.cell,
            connections=self.connections,
            input_size=self.embedding_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Reads the `config` of a checkpoint; raises ValueError for an unknown or missing field."""
        unknown = values.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Returns what fields mean that a config lacks: those of an older release have fewer."""
        return {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values."""
        return dataclasses.asdict(self)

    def check_sizes(self, *names: str) -> None:
        """Raises ValueError for the first of these fields that is not 1 or more."""
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be 1 or more")

    def check_choice(self, name: str, choices: Iterable[str]) -> None:
        """Raises ValueError for a field that is none of these."""
        if getattr(self, name) not in choices:
            *others, last = choices
            raise ValueError(f"{name} is {getattr(self, name)!r}, must be {', '.join(others)} or {last}")
