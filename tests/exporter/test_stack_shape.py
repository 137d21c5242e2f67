"""Sizes, tensors and the packed state of a stack."""

from typing import Any

import numpy as np
import pytest

from architectures import CELLS, CONNECTIONS, STACKS
from bundles import Weights, language_model_weights
from hiddenstate_exporter.graphs.stack_shape import Cell, Connections, StackShape, read_stack_shape, tensor_shapes
from hiddenstate_exporter.graphs.weights import WeightsError


def make_shape(**changes: Any) -> StackShape:
    sizes = {"cell": "lstm", "connections": "none", "input_size": 8, "hidden_size": 16, "num_layers": 3}
    return StackShape(**{**sizes, **changes})


def make_weights(shape: StackShape) -> Weights:
    return {name: np.zeros(size, np.float32) for name, size in tensor_shapes(shape).items()}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "connections"), STACKS)
def test_a_shape_is_read_off_its_own_tensors(cell: Cell, connections: Connections, bidirectional: bool) -> None:
    shape = make_shape(cell=cell, connections=connections, bidirectional=bidirectional)
    assert read_stack_shape(make_weights(shape), cell, connections) == shape


@pytest.mark.parametrize(
    ("changes", "offset", "output_size", "state_size"),
    [
        ({}, 64, 16, 96),  # h_2 of h_0 c_0 h_1 c_1 h_2 c_2
        ({"cell": "gru"}, 32, 16, 48),
        ({"connections": "residual"}, 96, 16, 112),
        ({"cell": "rnn", "connections": "highway"}, 48, 16, 64),
        ({"connections": "dense"}, 96, 48, 144),
        ({"cell": "gru", "connections": "dense"}, 0, 48, 48),  # h_0 h_1 h_2 is what the head reads
        ({"connections": "residual", "num_layers": 1}, 0, 16, 32),
        ({"connections": "dense", "num_layers": 1}, 0, 16, 32),
    ],
    ids=str,
)
def test_the_last_output_stands_in_the_state(
    changes: dict[str, Any], offset: int, output_size: int, state_size: int
) -> None:
    shape = make_shape(**changes)
    assert (shape.output_offset, shape.output_size, shape.state_size) == (offset, output_size, state_size)


def test_parts_of_the_state_follow_each_other_layer_by_layer() -> None:
    shape = make_shape()
    assert [shape.state_offset(layer, part) for layer in range(3) for part in shape.state_parts] == [*range(0, 96, 16)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("said", CELLS)
def test_another_cell_than_that_of_the_tensors_is_refused(cell: Cell, said: Cell) -> None:
    weights = make_weights(make_shape(cell=cell))
    if cell == said:
        assert read_stack_shape(weights, said, "none").cell == cell
    else:
        with pytest.raises(WeightsError, match=f"is not that of a cell '{said}' but of {cell.upper()}"):
            read_stack_shape(weights, said, "none")


def test_tensors_of_no_cell_are_refused() -> None:
    weights = make_weights(make_shape())
    for name, width in (("rnn.weight_ih_l0", 8), ("rnn.weight_hh_l0", 16)):
        weights[name] = np.zeros((5, width), np.float32)
    with pytest.raises(WeightsError, match="4 times as many rows as columns are due"):
        read_stack_shape(weights, "lstm", "none")


@pytest.mark.parametrize("connections", CONNECTIONS)
@pytest.mark.parametrize("said", CONNECTIONS)
def test_other_connections_than_those_of_the_tensors_are_refused(connections: Connections, said: Connections) -> None:
    weights = make_weights(make_shape(connections=connections))
    if connections == said or {connections, said} == {"none", "residual"}:  # these two have the same tensors
        assert read_stack_shape(weights, "lstm", said).connections == said
    else:
        with pytest.raises(WeightsError, match=r"tensor 'rnn\.(weight_ih|highway)_l1.*(missing|has shape|not belong)"):
            read_stack_shape(weights, "lstm", said)


@pytest.mark.parametrize("name", sorted(tensor_shapes(make_shape(connections="highway", bidirectional=True))))
def test_a_missing_tensor_is_named(name: str) -> None:
    weights = make_weights(make_shape(connections="highway", bidirectional=True))
    del weights[name]
    with pytest.raises(WeightsError, match=f"tensor '{name}' is missing"):
        read_stack_shape(weights, "lstm", "highway")


def test_a_stack_is_described_as_people_say_it() -> None:
    shape = make_shape(cell="gru", connections="highway", bidirectional=True)
    assert str(shape) == "bidirectional GRU 3x16, embedding 8, highway connections"


def test_the_tiny_models_of_the_tests_have_these_tensors() -> None:
    shape = make_shape(connections="dense", num_layers=2)
    weights = language_model_weights(20, shape, seed=0)
    assert read_stack_shape(weights, "lstm", "dense") == shape
