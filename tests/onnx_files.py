"""Small ONNX models for tests, as anybody could have made them: folders of a model repository with a `model.onnx`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper, save

OPSET = 17
# By the names of the Open Inference Protocol.
ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
SUM_CONFIG = """
[[state]]
input = "sum"
output = "next_sum"
batch_axis = 0
"""


def echo_model(folder: Path, datatypes: Sequence[str] = tuple(ELEMENTS), *, name: str = "echo") -> Path:
    """Writes a model that answers its input of each datatype, [batch, n], as an output `out_DATATYPE`."""
    nodes = [helper.make_node("Identity", [datatype], [f"out_{datatype}"]) for datatype in datatypes]
    inputs = [_port(datatype, datatype, ["batch", f"n_{datatype}"]) for datatype in datatypes]
    outputs = [_port(f"out_{datatype}", datatype, ["batch", f"n_{datatype}"]) for datatype in datatypes]
    return _write(folder, name, "1", nodes, inputs, outputs)


def scale_model(folder: Path, *, name: str = "scale", version: str = "1", factor: float = 2.0, width: int = 4) -> Path:
    """Writes a model that answers `y` = factor * `x`, both [batch, width]."""
    scale = numpy_helper.from_array(np.array(factor, np.float32), "factor")
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    shape = ["batch", width]
    return _write(folder, name, version, nodes, [_port("x", "FP32", shape)], [_port("y", "FP32", shape)], [scale])


def sum_model(
    folder: Path, *, name: str = "sum", version: str = "1", total: str = "total", config: str = SUM_CONFIG
) -> Path:
    """Writes a model with a state: `total` is the sum of all `x` of its sequence, both [batch, 1]."""
    nodes = [helper.make_node("Add", ["x", "sum"], ["next_sum"]), helper.make_node("Identity", ["next_sum"], [total])]
    ports = [_port(each, "FP32", ["batch", 1]) for each in ("x", "sum", total, "next_sum")]
    folder = _write(folder, name, version, nodes, ports[:2], ports[2:])
    (folder / "config.toml").write_text(config)
    return folder


def counting_model(folder: Path, *, name: str = "counting") -> Path:
    """Writes a model that takes as many steps as the sum of its `x`, [batch, 1] of int64: as good as for ever."""
    constants = [numpy_helper.from_array(np.array(True), "on"), numpy_helper.from_array(np.array([0, 1]), "axes")]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on_in"], ["on_out"]),
            helper.make_node("Add", ["before", "one"], ["after"]),
        ],
        "step",
        [_port("step", "INT64", []), _port("on_in", "BOOL", []), _port("before", "INT64", None)],
        [_port("on_out", "BOOL", []), _port("after", "INT64", None)],
        [numpy_helper.from_array(np.array(1), "one")],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["steps"], keepdims=0),
        helper.make_node("Loop", ["steps", "on", "x"], ["y"], body=body),
    ]
    shape = ["batch", 1]
    return _write(folder, name, "1", nodes, [_port("x", "INT64", shape)], [_port("y", "INT64", shape)], constants)


def filling_model(folder: Path, *, name: str = "filling") -> Path:
    """Writes a model that fills as many float32 with ones as the sum of its `x` says, [batch, 1] of int64."""
    axes = numpy_helper.from_array(np.array([0, 1]), "axes")
    length = numpy_helper.from_array(np.array([1]), "length")
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
        helper.make_node("Reshape", ["sum", "length"], ["many"]),
        helper.make_node("ConstantOfShape", ["many"], ["ones"], value=one),
        helper.make_node("ReduceMax", ["ones"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["factor"], to=TensorProto.INT64),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    shape = ["batch", 1]
    return _write(folder, name, "1", nodes, [_port("x", "INT64", shape)], [_port("y", "INT64", shape)], [axes, length])


def endless_model(folder: Path, *, name: str = "endless", version: str = "1") -> Path:
    """Writes a model that takes as good as for ever, whatever its `x` [batch, 4] is."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on_in"], ["on_out"]), helper.make_node("Identity", ["before"], ["after"])],
        "step",
        [_port("step", "INT64", []), _port("on_in", "BOOL", []), _port("before", "FP32", None)],
        [_port("on_out", "BOOL", []), _port("after", "FP32", None)],
    )
    constants = [numpy_helper.from_array(np.array(True), "on"), numpy_helper.from_array(np.array(2**62), "steps")]
    nodes = [helper.make_node("Loop", ["steps", "on", "x"], ["y"], body=body)]
    shape = ["batch", 4]
    return _write(folder, name, version, nodes, [_port("x", "FP32", shape)], [_port("y", "FP32", shape)], constants)


def _port(name: str, datatype: str, shape: Sequence[object] | None) -> Any:
    return helper.make_tensor_value_info(name, ELEMENTS[datatype], shape)


def _write(folder: Path, name: str, version: str, nodes: Any, inputs: Any, outputs: Any, constants: Any = ()) -> Path:
    graph = helper.make_graph(nodes, name, inputs, outputs, list(constants))
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    target = folder / name / version
    target.mkdir(parents=True)
    save(model, str(target / "model.onnx"))
    return target
