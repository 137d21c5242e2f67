"""Inputs of our own models: columns with one value in each row."""

from collections.abc import Sequence

from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.inference.tensors import Tensors, TensorSpec

COLUMN = (-1, 1)
"""How a column is declared. Triton's tools cannot name a batch of scalars, so the second axis is one for them."""


def read_columns(inputs: Tensors, specs: Sequence[TensorSpec], max_rows: int) -> tuple[Tensors, int]:
    """Returns columns as [rows], and how many rows there are; they may be sent as [rows] too.

    Raises:
        InvalidRequestError: one is missing, unknown or no column, they differ in their rows, or there are too many.
    """
    _check_names(inputs, specs)
    for name, tensor in inputs.items():
        if tensor.ndim not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
            raise InvalidRequestError(f"input {name!r}: shape is {list(tensor.shape)}, the model takes {list(COLUMN)}")
    columns = {name: tensor.reshape(-1) for name, tensor in inputs.items()}
    return columns, _rows(columns, max_rows)


def _rows(columns: Tensors, max_rows: int) -> int:
    sizes = {name: len(tensor) for name, tensor in columns.items()}
    rows = next(iter(sizes.values()))
    if any(size != rows for size in sizes.values()):
        raise InvalidRequestError(f"inputs differ in their batch, which is axis 0: {sizes}; send one row of each")
    if not 1 <= rows <= max_rows:
        raise InvalidRequestError(f"the batch has {rows:,} rows; one request may have 1 to {max_rows:,}")
    return rows


def _check_names(inputs: Tensors, specs: Sequence[TensorSpec]) -> None:
    takes = f"the model takes {', '.join(spec.name + ' (optional)' * spec.optional for spec in specs)}"
    for name in inputs:
        if all(name != spec.name for spec in specs):
            raise InvalidRequestError(f"input {name[:64]!r}: there is none of that name; {takes}")
    for spec in specs:
        if spec.name not in inputs and not spec.optional:
            raise InvalidRequestError(f"input {spec.name!r}: is missing; {takes}")
