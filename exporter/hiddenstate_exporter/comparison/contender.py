"""What is compared: architectures that have the same number of parameters."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch

from hiddenstate_exporter.graphs.stack_shape import Cell, Connections
from hiddenstate_exporter.networks.language_model import LanguageModel, LanguageModelConfig
from hiddenstate_exporter.publishing.checkpoint_model import count_parameters
from hiddenstate_exporter.training.language_model_run import network_config
from hiddenstate_exporter.training.run_config import LanguageModelRun

MAX_HIDDEN_SIZE = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One architecture, its width chosen so that it has as many parameters as the others."""

    cell: Cell
    connections: Connections
    run: LanguageModelRun
    parameters: int

    @property
    def name(self) -> str:
        """Such as `lstm` or `gru-residual`; good for a folder."""
        return self.cell if self.connections == "none" else f"{self.cell}-{self.connections}"


def make_contenders(
    run: LanguageModelRun,
    cells: Sequence[Cell],
    connections: Sequence[Connections],
    *,
    vocab_size: int,
    parameters: int | None = None,
) -> list[Contender]:
    """Makes a contender of each cell with each kind of connections.

    They have about `parameters` parameters, or as many as an LSTM of the run's width without connections. All have a
    projection between the layers and the decoder, since their widths differ.

    Raises:
        ValueError: embedding and decoder alone have more parameters than asked for.
    """
    if run.model.projection_size is None:
        run = _with_model(run, projection_size=run.model.embedding_size)
    reference = network_config(_with_model(run, cell="lstm", connections="none"), vocab_size=vocab_size)
    target = parameters or _count(reference)
    return [_fit(run, cell, kind, vocab_size, target) for kind in connections for cell in cells]


def _fit(run: LanguageModelRun, cell: Cell, connections: Connections, vocab_size: int, target: int) -> Contender:
    """Solves for the width whose number of parameters, which rises with it, is nearest to the target."""
    shape = network_config(_with_model(run, cell=cell, connections=connections), vocab_size=vocab_size)
    low, high = 1, MAX_HIDDEN_SIZE
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _count_at(shape, middle) >= target else (middle + 1, high)
    size = min((low, max(low - 1, 1)), key=lambda width: abs(_count_at(shape, width) - target))
    found = _count_at(shape, size)
    if abs(found - target) > 0.1 * target:
        raise ValueError(
            f"{cell} with {connections} connections: no width gives {target:,} parameters, the nearest is {size} with "
            f"{found:,}; ask for more parameters, or make embedding_size or the vocabulary smaller"
        )
    chosen = _with_model(run, cell=cell, connections=connections, hidden_size=size)
    return Contender(cell=cell, connections=connections, run=chosen, parameters=found)


def _count_at(shape: LanguageModelConfig, hidden_size: int) -> int:
    return _count(dataclasses.replace(shape, hidden_size=hidden_size))


def _count(shape: LanguageModelConfig) -> int:
    with torch.device("meta"):  # shapes only
        return count_parameters(LanguageModel(shape))


def _with_model(run: LanguageModelRun, **fields: object) -> LanguageModelRun:
    return msgspec.structs.replace(run, model=msgspec.structs.replace(run.model, **fields))
