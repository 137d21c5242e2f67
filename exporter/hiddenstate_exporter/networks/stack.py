"""A stack of recurrent layers in PyTorch; `stack_shape` says what stands between the layers.

Without connections it is PyTorch's own module of several layers, which is faster; both are run with `advance`, or with
`advance_regularized` where masks have to last over several steps.
"""

import functools
import re
from collections.abc import Callable
from typing import Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from hiddenstate_exporter.graphs.stack_shape import Cell, StackShape
from hiddenstate_exporter.networks.dropout import drop_weights

State = tuple[Tensor, ...]  # h, and c of an LSTM, each [num_layers * directions, batch, hidden_size]
Sequences = TypeVar("Sequences", Tensor, PackedSequence)  # a Tensor is [batch, seq, width]

HIGHWAY_BIAS: Final = -1.0  # gates start by carrying: Srivastava, Greff & Schmidhuber (2015)

_MODULES: Final[dict[Cell, Callable[..., nn.RNNBase]]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
_CANONICAL: Final = (
    (re.compile(r"^rnn\.layers\.(\d+)\.(\w+)_l0"), r"rnn.\2_l\1"),
    (re.compile(r"^rnn\.gates\.(\d+)\."), r"rnn.highway_l\1."),
)


class RecurrentStack(nn.Module):
    """Layers with connections between them.

    Dropout acts on what layers from the second on read, as in PyTorch's own stacks; what goes past a layer is whole.
    """

    def __init__(self, shape: StackShape, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(
            _module(shape, shape.layer_input_size(layer), num_layers=1) for layer in range(shape.num_layers)
        )
        gated = {layer: shape.layer_input_size(layer) for layer in range(shape.num_layers) if shape.has_gate(layer)}
        self.gates = nn.ModuleDict({str(layer): _gate(width) for layer, width in gated.items()})
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Sequences,
        state: State | None = None,
        *,
        dropout: nn.Module | None = None,
        run: Callable[..., tuple[Sequences, State]] | None = None,
    ) -> tuple[Sequences, State]:
        """Returns the stack's outputs, as wide as `shape.output_size`, and the state after the last token.

        `dropout` acts in the place of its own; `run` runs a layer in the place of `advance`.
        """
        values, outputs, final = _values(x), [], []
        dropout, run = dropout or self.dropout, run or advance
        for number, layer in enumerate(self.layers):
            start = None if state is None else self._of_layer(state, number)
            read = dropout(values) if number else values
            result, end = run(layer, _with_values(x, read), start)
            outputs.append(_values(result))
            final.append(end)
            values = self._connect(number, values, outputs[-1])
        top = torch.cat(outputs, dim=-1) if self.shape.connections == "dense" else values
        return _with_values(x, top), tuple(torch.cat(parts) for parts in zip(*final, strict=True))

    def _connect(self, layer: int, x: Tensor, y: Tensor) -> Tensor:
        """Returns x_{l+1} of x_l and y_l, each [..., width]."""
        if self.shape.connections == "dense":
            return torch.cat([x, y], dim=-1)
        if layer == 0:
            return y
        if self.shape.connections == "residual":
            return y + x
        gate = torch.sigmoid(self.gates[str(layer)](x))
        return gate * y + (1 - gate) * x

    def _of_layer(self, state: State, layer: int) -> State:
        first, directions = layer * self.shape.num_directions, self.shape.num_directions
        return tuple(part[first : first + directions] for part in state)


def make_stack(shape: StackShape, dropout: float) -> nn.RNNBase | RecurrentStack:
    """Makes a stack with fresh weights; `dropout` acts between the layers, in training."""
    if shape.connections != "none":
        return RecurrentStack(shape, dropout)
    return _module(shape, shape.input_size, num_layers=shape.num_layers, dropout=dropout)


def advance(stack: nn.Module, x: Sequences, state: State | None = None) -> tuple[Sequences, State]:
    """Runs a stack, or one layer, whose state PyTorch may want as a tuple (LSTM) or bare."""
    if isinstance(stack, (nn.RNN, nn.GRU)):
        outputs, h = stack(x, None if state is None else state[0])
        return outputs, (h,)
    outputs, final = stack(x, state)
    return outputs, final


def advance_regularized(
    stack: nn.Module, x: Tensor, state: State | None, *, dropout: nn.Module, weight_drop: float
) -> tuple[Tensor, State]:
    """Runs a stack that reads forwards, layer by layer, in training: x [batch, seq, width].

    `dropout` acts between the layers; `weight_drop` is the share of recurrent weights that are zero in this run. Each
    layer is one call of PyTorch's all the same, so that it goes through oneDNN or cuDNN.
    """
    if isinstance(stack, RecurrentStack):
        run = functools.partial(_drop_and_advance, weight_drop=weight_drop)
        return stack.forward(x, state, dropout=dropout, run=run)
    assert isinstance(stack, nn.RNNBase)
    final = []
    for layer in range(stack.num_layers):
        start = None if state is None else tuple(part[layer : layer + 1] for part in state)
        x, end = _drop_and_advance(stack, dropout(x) if layer else x, start, weight_drop=weight_drop, layer=layer)
        final.append(end)
    return x, tuple(torch.cat(parts) for parts in zip(*final, strict=True))


def set_forget_bias(stack: nn.Module, value: float) -> None:
    """Sets the forget gates' bias (the sum of both) in all LSTM layers; other cells have no such gate.

    Gates that start open let gradients reach far back: Jozefowicz, Zaremba & Sutskever, "An Empirical Exploration of
    Recurrent Network Architectures" (2015).
    """
    for module in stack.modules():
        if isinstance(module, nn.LSTM):
            forget = slice(module.hidden_size, 2 * module.hidden_size)
            for name, parameter in module.named_parameters():
                if name.startswith("bias_"):
                    with torch.no_grad():
                        parameter[forget] = value if name.startswith("bias_ih") else 0.0


def canonical_name(name: str) -> str:
    """Returns what `stack_shape` calls a tensor, of its name in a model's state_dict."""
    for pattern, replacement in _CANONICAL:
        name = pattern.sub(replacement, name)
    return name


def _drop_and_advance(
    module: nn.Module, x: Tensor, state: State | None, *, weight_drop: float, layer: int = 0
) -> tuple[Tensor, State]:
    """Runs one layer of a module with some of its recurrent weights dropped."""
    assert isinstance(module, nn.RNNBase)
    weight_ih, weight_hh, bias_ih, bias_hh = module.all_weights[layer]
    weights = [weight_ih, drop_weights(weight_hh, weight_drop), bias_ih, bias_hh]
    if state is None:
        parts = 2 if isinstance(module, nn.LSTM) else 1
        state = (x.new_zeros(1, x.shape[0], module.hidden_size),) * parts
    rest = (weights, True, 1, 0.0, True, False, True)  # biases, layers, dropout, training, bidirectional, batch first
    if isinstance(module, nn.LSTM):
        outputs, *final = torch.lstm(x, state, *rest)
    else:
        outputs, *final = (torch.gru if isinstance(module, nn.GRU) else torch.rnn_tanh)(x, state[0], *rest)
    return outputs, tuple(final)


def _module(shape: StackShape, input_size: int, *, num_layers: int, dropout: float = 0.0) -> nn.RNNBase:
    return _MODULES[shape.cell](
        input_size,
        shape.hidden_size,
        num_layers,
        batch_first=True,
        dropout=dropout if num_layers > 1 else 0.0,
        bidirectional=shape.bidirectional,
    )


def _gate(width: int) -> nn.Linear:
    gate = nn.Linear(width, width)
    nn.init.constant_(gate.bias, HIGHWAY_BIAS)
    return gate


def _values(x: Tensor | PackedSequence) -> Tensor:
    return x.data if isinstance(x, PackedSequence) else x


def _with_values(like: Sequences, values: Tensor) -> Sequences:
    """Returns values in the form of `like`. Positions of packed sequences are rows, so connections act on rows."""
    if isinstance(like, PackedSequence):
        return PackedSequence(values, like.batch_sizes, like.sorted_indices, like.unsorted_indices)
    return values
