"""Pooling in PyTorch, against plain numpy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hiddenstate_exporter.graphs.pooling_graph import Pooling
from hiddenstate_exporter.graphs.stack_shape import Connections, StackShape
from hiddenstate_exporter.networks.pooling import AttentionPooling, make_pooling

LENGTHS = [3, 7, 1, 5]


def make_shape(connections: Connections = "none", *, bidirectional: bool = True) -> StackShape:
    return StackShape(
        cell="lstm",
        connections=connections,
        input_size=5,
        hidden_size=2,
        num_layers=2,
        bidirectional=bidirectional,
    )


def make(pooling: Pooling, shape: StackShape) -> nn.Module:
    torch.manual_seed(2)
    return make_pooling(pooling, shape, attention_size=6, heads=3)


def pool(pooling: Pooling, shape: StackShape, outputs: torch.Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        pooled: NDArray[np.float32] = make(pooling, shape)(outputs, torch.tensor(LENGTHS)).numpy()
    return pooled


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "attention"])
def test_padding_never_counts(pooling: Pooling) -> None:
    outputs = torch.randn(4, 7, 4)
    damaged = outputs.clone()
    for row, length in enumerate(LENGTHS):
        damaged[row, length:] = torch.nan
    np.testing.assert_array_equal(pool(pooling, make_shape(), outputs), pool(pooling, make_shape(), damaged))


def test_mean_and_max_are_those_of_numpy() -> None:
    outputs = torch.randn(4, 7, 4)
    valid = [row[:length].numpy() for row, length in zip(outputs, LENGTHS, strict=True)]
    np.testing.assert_allclose(pool("mean", make_shape(), outputs), [row.mean(axis=0) for row in valid], atol=1e-6)
    np.testing.assert_array_equal(pool("max", make_shape(), outputs), [row.max(axis=0) for row in valid])


def test_last_takes_each_direction_where_it_ends() -> None:
    torch.manual_seed(0)
    rnn, x = nn.LSTM(5, 2, batch_first=True, bidirectional=True), torch.randn(4, 7, 5)
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    outputs, (h, _) = rnn(packed)
    padded, _ = pad_packed_sequence(outputs, batch_first=True)
    expected = torch.cat([h[0], h[1]], dim=1).detach()
    np.testing.assert_array_equal(pool("last", make_shape(), padded.detach()), expected)


def test_last_takes_both_directions_of_each_layer_of_a_dense_stack() -> None:
    outputs = torch.randn(4, 7, 8)  # 2 layers, 2 directions, 2 wide
    rows = np.arange(4)
    forwards, backwards = outputs[rows, np.array(LENGTHS) - 1].numpy(), outputs[:, 0].numpy()
    expected = np.concatenate([forwards[:, :2], backwards[:, 2:4], forwards[:, 4:6], backwards[:, 6:]], axis=1)
    np.testing.assert_array_equal(pool("last", make_shape("dense"), outputs), expected)


def test_last_of_one_direction_is_the_last_token() -> None:
    outputs = torch.randn(4, 7, 2)
    expected = outputs[np.arange(4), np.array(LENGTHS) - 1]
    np.testing.assert_array_equal(pool("last", make_shape(bidirectional=False), outputs), expected)


def test_attention_is_that_of_the_paper() -> None:
    outputs = torch.randn(4, 7, 4)
    pooled = pool("attention", make_shape(), outputs)
    module = make("attention", make_shape())
    assert isinstance(module, AttentionPooling)
    w1, w2 = module.w1.weight.detach().numpy(), module.w2.weight.detach().numpy()  # [6, 4], [3, 6]
    for row, vector, length in zip(outputs.numpy(), pooled, LENGTHS, strict=True):
        h = row[:length]  # [length, 4]
        shares = np.exp(w2 @ np.tanh(w1 @ h.T))  # [3, length]
        shares /= shares.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(vector, (shares @ h).ravel(), atol=1e-6)
