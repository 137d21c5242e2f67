"""The architectures that tests run through."""

from typing import Final, get_args

from hiddenstate_exporter.graphs.stack_shape import Cell, Connections

CELLS: Final[tuple[Cell, ...]] = get_args(Cell)
CONNECTIONS: Final[tuple[Connections, ...]] = get_args(Connections)
STACKS: Final = [(cell, connections) for cell in CELLS for connections in CONNECTIONS]
