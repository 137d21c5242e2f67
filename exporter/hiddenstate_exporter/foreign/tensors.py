"""The tensors of somebody else's model: each is taken by the part that it belongs to, none is left over."""

import fnmatch
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hiddenstate_exporter.foreign.description import DescriptionError
from hiddenstate_exporter.graphs.stack_shape import GATES, Cell, StackShape, tensor_shapes

_LAYER = re.compile(r"_l(\d+)(_reverse)?$")


class ForeignTensors:
    """A state_dict whose tensors are taken one by one, by the names that it has for them.

    Raises:
        DescriptionError: from every method; a tensor is missing, left over, of a wrong shape or without finite numbers.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, rename: Mapping[str, str], ignore: Sequence[str]) -> None:
        self._tensors = _without(_renamed(tensors, rename), ignore)
        self._taken: set[str] = set()

    def take(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        """Returns a tensor in float32; None in its shape stands for any size."""
        if name not in self._tensors:
            raise DescriptionError(f"tensor {name!r} is missing; there are: {_some(list(self._tensors))}")
        self._taken.add(name)
        tensor = self._tensors[name]
        if len(tensor.shape) != len(shape) or any(
            want not in (None, size) for size, want in zip(tensor.shape, shape, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise DescriptionError(f"tensor {name!r} has shape {list(tensor.shape)}, expected [{wanted}]")
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise DescriptionError(f"tensor {name!r} is {tensor.dtype}, {tensor.layout}; plain floats are needed")
        if not tensor.isfinite().all():
            raise DescriptionError(f"tensor {name!r} holds values that are not finite")
        return tensor.float()

    def table(self, name: str) -> tuple[str, Tensor]:
        """Returns the weights of an embedding, named by its module or as a tensor, and the tensor's name."""
        name = name if name in self._tensors else f"{name}.weight"
        return name, self.take(name, (None, None))

    def linear(self, module: str, inputs: int, outputs: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns weight [outputs, inputs] and bias [outputs] of a linear layer."""
        weight = self.take(f"{module}.weight", (outputs, inputs))
        return weight, self.bias(module, len(weight))

    def bias(self, module: str, size: int) -> Tensor:
        """Returns the bias [size] of a linear layer; zeros where it has none."""
        name = f"{module}.bias"
        return self.take(name, (size,)) if self.has(name) else torch.zeros(size)

    def has(self, name: str) -> bool:
        """Tells whether there is a tensor of that name."""
        return name in self._tensors

    def stack(self, module: str, cell: Cell) -> tuple[StackShape, dict[str, Tensor]]:
        """Returns the sizes of `nn.RNN`, `nn.LSTM` or `nn.GRU` and its tensors, named as in `stack_shape`."""
        shape = self._stack_shape(module, cell)
        has_bias = any(name.startswith(f"{module}.bias_") for name in self._tensors)
        tensors = {}
        for name, size in tensor_shapes(shape).items():
            found = module + name.removeprefix("rnn")
            tensors[name] = self.take(found, size) if has_bias or ".bias_" not in name else torch.zeros(size)
        return shape, tensors

    def check_nothing_left(self) -> None:
        """Checks that every tensor was taken."""
        left = [name for name in self._tensors if name not in self._taken]
        if left:
            raise DescriptionError(
                f"tensor {left[0]!r} is not part of the model described ({len(left)} left over: {_some(left)}); "
                'say what it belongs to, or list it under "ignore"'
            )

    def _stack_shape(self, module: str, cell: Cell) -> StackShape:
        if self.has(f"{module}.weight_hr_l0"):
            raise DescriptionError(f"tensor '{module}.weight_hr_l0': an LSTM with proj_size cannot be imported")
        rows, input_size = self.take(f"{module}.weight_ih_l0", (None, None)).shape
        hidden_size = self.take(f"{module}.weight_hh_l0", (rows, None)).shape[1]
        _check_gates(module, rows, hidden_size, cell)
        found = [match for name in self._tensors if name.startswith(f"{module}.") and (match := _LAYER.search(name))]
        return StackShape(
            cell=cell,
            connections="none",
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=1 + max(int(match[1]) for match in found),
            bidirectional=any(match[2] for match in found),
        )


def _renamed(tensors: Mapping[str, Tensor], rename: Mapping[str, str]) -> dict[str, Tensor]:
    missing = [name for name in rename if name not in tensors]
    if missing:
        raise DescriptionError(f"rename: there is no tensor {missing[0]!r}")
    renamed = {rename.get(name, name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        names = [rename.get(name, name) for name in tensors]
        twice = next(name for name in names if names.count(name) > 1)
        raise DescriptionError(f"rename: two tensors would be called {twice!r}")
    return renamed


def _without(tensors: Mapping[str, Tensor], ignore: Sequence[str]) -> dict[str, Tensor]:
    for pattern in ignore:
        if not fnmatch.filter(tensors, pattern):
            raise DescriptionError(f"ignore: there is no tensor {pattern!r}")
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore)
    }


def _check_gates(module: str, rows: int, hidden_size: int, cell: Cell) -> None:
    if rows == GATES[cell] * hidden_size:
        return
    others = [name.upper() for name, gates in GATES.items() if rows == gates * hidden_size]
    raise DescriptionError(
        f"cell: is \"{cell}\", but tensor '{module}.weight_hh_l0' of shape [{rows}, {hidden_size}] is "
        + (f"that of a cell {others[0]}" if others else "that of no known cell")
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
