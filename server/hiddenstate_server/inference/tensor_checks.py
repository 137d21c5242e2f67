"""Whether tensors are what a model declares."""

from collections.abc import Sequence

from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.inference.tensors import Tensors, TensorSpec


def check_inputs(inputs: Tensors, specs: Sequence[TensorSpec]) -> None:
    """Checks the names and shapes of what was sent.

    Raises:
        InvalidRequestError: one is missing or unknown, or has other axes or sizes than declared.
    """
    _check_names(inputs, specs)
    for spec in specs:
        tensor = inputs.get(spec.name)
        if tensor is not None and not _fits(tensor.shape, spec.shape):
            raise InvalidRequestError(
                f"input {spec.name!r}: shape is {list(tensor.shape)}, the model takes {list(spec.shape)} (-1: any size)"
            )


def check_rows(inputs: Tensors, max_rows: int) -> int:
    """Returns how many rows were sent, which are along axis 0.

    Raises:
        InvalidRequestError: there is none, there are too many, or inputs differ in it.
    """
    sizes = {name: len(tensor) for name, tensor in inputs.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidRequestError(f"inputs differ in their batch, which is axis 0: {sizes}; send one row of each")
    rows = next(iter(sizes.values()))
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


def _fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    return len(shape) == len(declared) and all(
        wanted in (-1, size) for size, wanted in zip(shape, declared, strict=True)
    )
