"""Tiny ONNX graphs that show one trait each, for tests of the server's tensor models, and some of them in numpy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from hiddenstate_server.inference.tensors import Tensors

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
Floats = NDArray[np.float32]

LSTM_CONFIG = """
[[state]]
input = "a_cell"
output = "z_cell"
batch_axis = 1
[[state]]
input = "b_hidden"
output = "y_hidden"
batch_axis = 1
"""
INPUT_SIZE, HIDDEN_SIZE = 3, 5


def port(name: str, dims: Sequence[int | str | None] | None, kind: int = FLOAT) -> Any:
    """Describes an input or output; None for `dims` leaves its shape unknown."""
    return helper.make_tensor_value_info(name, kind, dims)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    """Makes a node."""
    return helper.make_node(operator, inputs, outputs, **attributes)


def write_graph(
    folder: Path,
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Tensors | None = None,
    *,
    config: str = "",
) -> Path:
    """Writes `model.onnx`, and `config.toml` if it is not empty, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(folder / "model.onnx"))
    if config:
        (folder / "config.toml").write_text(config, encoding="utf-8")
    return folder


def tagger(folder: Path, *, config: str = "") -> Path:
    """A bidirectional LSTM over ids [batch, seq] of a vocabulary of 20, to scores [batch, seq, 2 * hidden]."""
    random = np.random.default_rng(0)
    weights: Tensors = {"table": _draw(random, 20, INPUT_SIZE), **_lstm_weights(random, directions=2)}
    weights["flat"] = np.array([0, 0, -1])
    nodes = [
        node("Gather", ["table", "ids"], ["embedded"]),  # [batch, seq, input]
        node("Transpose", ["embedded"], ["by_time"], perm=[1, 0, 2]),
        node("LSTM", ["by_time", "W", "R", "B"], ["both"], hidden_size=HIDDEN_SIZE, direction="bidirectional"),
        node("Transpose", ["both"], ["by_row"], perm=[2, 0, 1, 3]),  # [batch, seq, directions, hidden]
        node("Reshape", ["by_row", "flat"], ["scores"]),
    ]
    return write_graph(
        folder,
        nodes,
        [port("ids", ["batch", "seq"], INT64)],
        [port("scores", ["batch", "seq", 2 * HIDDEN_SIZE])],
        weights,
        config=config,
    )


def stateful_lstm(folder: Path, *, config: str = LSTM_CONFIG) -> Path:
    """An LSTM over frames [batch, seq, input] whose states go in and out; nothing about their names or order helps."""
    random = np.random.default_rng(1)
    nodes = [
        node("Transpose", ["x"], ["by_time"], perm=[1, 0, 2]),
        node(
            "LSTM",
            ["by_time", "W", "R", "B", "", "b_hidden", "a_cell"],
            ["outputs", "y_hidden", "z_cell"],
            hidden_size=HIDDEN_SIZE,
        ),
        node("Squeeze", ["outputs", "one"], ["squeezed"]),
        node("Transpose", ["squeezed"], ["y"], perm=[1, 0, 2]),
    ]
    state: Sequence[int | str] = [1, "batch", HIDDEN_SIZE]
    return write_graph(
        folder,
        nodes,
        [port("a_cell", state), port("x", ["batch", "seq", INPUT_SIZE]), port("b_hidden", state)],
        [port("y_hidden", state), port("y", ["batch", "seq", HIDDEN_SIZE]), port("z_cell", state)],
        {**_lstm_weights(random, directions=1), "one": np.array([1])},
        config=config,
    )


def lstm_in_numpy(frames: Floats, hidden: float = 0.0, cell: float = 0.0) -> Floats:
    """Answers what `stateful_lstm` does to one sequence [seq, input], as [seq, hidden]."""
    weights = _lstm_weights(np.random.default_rng(1), directions=1)
    bias = weights["B"][0, : 4 * HIDDEN_SIZE] + weights["B"][0, 4 * HIDDEN_SIZE :]
    h, c = np.full(HIDDEN_SIZE, hidden), np.full(HIDDEN_SIZE, cell)
    outputs = []
    for frame in frames:
        gates = weights["W"][0] @ frame + weights["R"][0] @ h + bias
        i, o, f, g = np.split(gates, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs, dtype=np.float32)


def neighbours_matter(folder: Path, *, config: str = "") -> Path:
    """Subtracts the mean of all rows from each."""
    return write_graph(
        folder,
        [node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1), node("Sub", ["x", "mean"], ["y"])],
        [port("x", ["batch", 3])],
        [port("y", ["batch", 3])],
        config=config,
    )


def dynamic_int8(folder: Path, *, config: str = "") -> Path:
    """Rounds to 8 bits by the largest value of a whole batch, as dynamically quantised models do."""
    return write_graph(
        folder,
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        [port("x", ["batch", 3])],
        [port("y", ["batch", 3])],
        config=config,
    )


def times_factor(folder: Path, *, config: str = "") -> Path:
    """Multiplies rows [batch, n] by a number that the call brings along."""
    return write_graph(
        folder,
        [node("Mul", ["x", "factor"], ["y"])],
        [port("x", ["batch", "n"]), port("factor", [])],
        [port("y", ["batch", "n"])],
        config=config,
    )


def running_sum(folder: Path, *, config: str, state: Sequence[int | str | None] = ("batch", 1)) -> Path:
    """Adds `x` [batch, 1] to a state of some shape."""
    return write_graph(
        folder,
        [node("Add", ["x", "sum"], ["next_sum"]), node("Identity", ["next_sum"], ["total"])],
        [port("x", ["batch", 1]), port("sum", state)],
        [port("total", state), port("next_sum", state)],
        config=config,
    )


def memory_of_all(folder: Path, *, config: str) -> Path:
    """A state [batch, past, 1] that grows by what comes; `total` is the sum over all of it."""
    return write_graph(
        folder,
        [
            node("Concat", ["past", "x"], ["present"], axis=1),
            node("ReduceSum", ["present", "one"], ["total"], keepdims=0),
        ],
        [port("x", ["batch", "n", 1]), port("past", ["batch", "past", 1])],
        [port("total", ["batch", 1]), port("present", ["batch", "all", 1])],
        {"one": np.array([1])},
        config=config,
    )


def _lstm_weights(random: np.random.Generator, *, directions: int) -> Tensors:
    gates = 4 * HIDDEN_SIZE
    return {
        "W": _draw(random, directions, gates, INPUT_SIZE),
        "R": _draw(random, directions, gates, HIDDEN_SIZE),
        "B": _draw(random, directions, 2 * gates),
    }


def _draw(random: np.random.Generator, *shape: int) -> Floats:
    return random.normal(scale=0.7, size=shape).astype(np.float32)


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-x)))
