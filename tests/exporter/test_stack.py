"""Recurrent stacks in PyTorch, against plain numpy and against themselves."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from architectures import STACKS
from checkpoints import VOCABULARY, language_model_checkpoint
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections, StackShape, tensor_shapes
from hiddenstate_exporter.networks.stack import RecurrentStack, advance, canonical_name, make_stack, set_forget_bias
from hiddenstate_exporter.publishing.checkpoint_model import language_model_of, round_model, weights_of
from reference import ReferenceModel

SKIPPING = [(cell, connections) for cell, connections in STACKS if connections != "none"]


def make_shape(
    cell: Cell = "lstm", connections: Connections = "none", *, num_layers: int = 3, bidirectional: bool = False
) -> StackShape:
    return StackShape(
        cell=cell,
        connections=connections,
        input_size=5,
        hidden_size=6,
        num_layers=num_layers,
        bidirectional=bidirectional,
    )


def make(shape: StackShape, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return make_stack(shape, dropout).eval()


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_a_language_model_computes_what_numpy_does(cell: Cell, connections: Connections) -> None:
    model = language_model_of(language_model_checkpoint(cell=cell, connections=connections, num_layers=3))
    round_model(model, "float16")
    reference = ReferenceModel(weights_of(model), num_layers=3, cell=cell, connections=connections)
    tokens = [int(token) for token in np.random.default_rng(0).integers(len(VOCABULARY), size=12)]
    with torch.inference_mode():
        actual = model(torch.tensor([tokens]))[0][0].log_softmax(dim=-1).numpy()
    np.testing.assert_allclose(actual, reference.log_probs(tokens), atol=1e-4)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_the_tensors_have_their_names_and_shapes(cell: Cell, connections: Connections, bidirectional: bool) -> None:
    shape = make_shape(cell, connections, bidirectional=bidirectional)
    tensors = {canonical_name(f"rnn.{name}"): tuple(t.shape) for name, t in make(shape).state_dict().items()}
    assert tensors == tensor_shapes(shape)


def test_without_connections_it_is_the_module_of_pytorch_with_its_names() -> None:
    stack = make(make_shape())
    assert isinstance(stack, nn.LSTM)
    assert all(canonical_name(f"rnn.{name}") == f"rnn.{name}" for name in stack.state_dict())


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_reading_in_pieces_gives_the_same_as_in_one(cell: Cell, connections: Connections) -> None:
    shape = make_shape(cell, connections)
    stack, x = make(shape), torch.randn(2, 9, 5)
    whole, end = advance(stack, x)
    first, state = advance(stack, x[:, :4])
    second, state = advance(stack, x[:, 4:], state)
    assert whole.shape == (2, 9, shape.output_size)
    assert [part.shape for part in end] == [(3, 2, 6)] * len(shape.state_parts)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_a_packed_batch_gives_each_sequence_what_it_gives_it_alone(cell: Cell, connections: Connections) -> None:
    stack = make(make_shape(cell, connections, bidirectional=True))
    x, lengths = torch.randn(4, 7, 5), [3, 7, 1, 5]
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    outputs, state = advance(stack, packed)
    padded, _ = pad_packed_sequence(outputs, batch_first=True)
    for row, length in enumerate(lengths):
        alone, end = advance(stack, x[row : row + 1, :length])
        torch.testing.assert_close(padded[row : row + 1, :length], alone)
        torch.testing.assert_close(tuple(part[:, row : row + 1] for part in state), end)


@pytest.mark.parametrize(("cell", "connections"), SKIPPING)
def test_every_weight_learns(cell: Cell, connections: Connections) -> None:
    stack = make(make_shape(cell, connections, bidirectional=True))
    torch.autograd.backward(advance(stack, torch.randn(2, 6, 5))[0].square().sum())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in stack.parameters())


@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_dropout_acts_between_layers_in_training_only(cell: Cell, connections: Connections) -> None:
    shape, x = make_shape(cell, connections), torch.randn(1, 6, 5)
    stack = make(shape, dropout=0.5)
    torch.testing.assert_close(advance(stack, x), advance(make(shape), x))
    stack.train()
    assert not torch.equal(advance(stack, x)[0], advance(stack, x)[0])


def test_dropout_leaves_what_goes_past_a_layer_whole() -> None:
    stack = make(make_shape(connections="residual", num_layers=2), dropout=0.9)
    assert isinstance(stack, RecurrentStack)
    for parameter in stack.layers[1].parameters():
        nn.init.zeros_(parameter)  # the upper layer adds nothing
    x = torch.randn(1, 4, 5)
    expected, _ = advance(stack.layers[0], x)
    torch.testing.assert_close(advance(stack.train(), x)[0], expected)


def test_a_highway_carries_at_first() -> None:
    stack = make(make_shape(connections="highway"))
    assert isinstance(stack, RecurrentStack)
    for gate in stack.gates.values():
        assert isinstance(gate, nn.Linear)
        nn.init.zeros_(gate.weight)
        assert torch.sigmoid(gate(torch.zeros(6))).tolist() == pytest.approx([0.2689] * 6, abs=1e-4)


@pytest.mark.parametrize("connections", ["none", "dense"])
def test_the_forget_bias_is_the_sum_of_both_biases(connections: Connections) -> None:
    stack = make(make_shape(connections=connections, num_layers=2, bidirectional=True))
    before = {name: tensor.clone() for name, tensor in stack.state_dict().items()}
    set_forget_bias(stack, 1.5)
    for name, tensor in stack.state_dict().items():
        gates = dict(zip("ifgo", tensor.split(6), strict=True))
        if ".bias_ih" in f".{name}":
            other = stack.state_dict()[name.replace("bias_ih", "bias_hh")].split(6)[1]
            assert torch.equal(gates["f"] + other, torch.full((6,), 1.5))
        if "weight" in name:
            assert torch.equal(tensor, before[name])
        for gate in "igo":
            assert torch.equal(gates[gate], dict(zip("ifgo", before[name].split(6), strict=True))[gate])


def test_cells_without_a_forget_gate_are_left_alone() -> None:
    stack = make(make_shape("gru"))
    before = {name: tensor.clone() for name, tensor in stack.state_dict().items()}
    set_forget_bias(stack, 1.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in stack.state_dict().items())
