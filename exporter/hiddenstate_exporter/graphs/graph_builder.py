"""Writes down one ONNX graph, node by node."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.weights import StoredDtype, WeightsFile

OPSET = 17  # the lowest that serves; ONNX Runtime reads it since 1.12, this project asks for 1.20
IR_VERSION = 8  # that of ONNX 1.12, which opset 17 came with
PRODUCER = "hiddenstate"
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators, in all its builds

FLOAT = onnx.TensorProto.FLOAT
FLOAT16 = onnx.TensorProto.FLOAT16
INT64 = onnx.TensorProto.INT64
INT32 = onnx.TensorProto.INT32
UINT8 = onnx.TensorProto.UINT8
BOOL = onnx.TensorProto.BOOL

_TYPES: Final = {"float32": FLOAT, "float16": FLOAT16}


ComputeDtype = Literal["float32", "float16"]


class GraphBuilder:
    """Collects the nodes and weights of a graph; its methods return the names of the values they make.

    In a graph that computes in float16, what the modules that add nodes call float32 is float16, until `to_float32`.
    """

    def __init__(
        self, name: str, weights: WeightsFile, dtype: StoredDtype, computes_in: ComputeDtype = "float32"
    ) -> None:
        self._name = name
        self._weights = weights
        self._dtype = dtype
        self._computes_in = computes_in
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._counts: dict[str, int] = {}
        self._domains = {"": OPSET}

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output."""
        return self.ops(op_type, *inputs, outputs=("",), **attributes)[0]

    def ops(self, op_type: str, *inputs: str, outputs: Sequence[str], node: str = "", **attributes: Any) -> list[str]:
        """Adds a node with several outputs; each is named after the node and the suffix given for it.

        A node without a name of its own is named after its type.
        """
        if not node:
            number = self._counts[op_type] = self._counts.get(op_type, -1) + 1
            node = f"{op_type}_{number}"
        if attributes.get("domain"):
            self._domains[attributes["domain"]] = 1
        names = [f"{node}.{suffix}" if suffix else node for suffix in outputs]
        self._nodes.append(onnx.helper.make_node(op_type, inputs, names, name=node, **attributes))
        return names

    def stored(self, name: str, array: NDArray[Any]) -> str:
        """Adds a tensor to the weights file: floats in the file's type, others in their own."""
        return self.stored_exactly(name, array.astype(self._dtype) if array.dtype == np.float32 else array)

    def stored_exactly(self, name: str, array: NDArray[Any]) -> str:
        """Adds a tensor to the weights file in its own type."""
        if name not in self._initializers:
            self._initializers[name] = self._weights.add(name, array)
        return name

    def weight(self, name: str, array: NDArray[np.float32]) -> str:
        """Adds a tensor to the weights file and gives it as products read it; ONNX Runtime widens it once, at load."""
        return self.widen(self.stored(name, array))

    def widen(self, value: str) -> str:
        """Gives a value of the stored type in the type that products compute in."""
        return value if self._dtype == self._computes_in else self.op("Cast", value, to=_TYPES[self._computes_in])

    def to_computing(self, value: str) -> str:
        """Gives a float32 value in the type that products compute in."""
        return value if self._computes_in == "float32" else self.op("Cast", value, to=FLOAT16)

    def to_float32(self, value: str) -> str:
        """Gives a value of the type that products compute in as float32."""
        return value if self._computes_in == "float32" else self.op("Cast", value, to=FLOAT)

    def number(self, value: float) -> str:
        """Adds a constant of the type that products compute in."""
        return self.constant(value, np.float32 if self._computes_in == "float32" else np.float16)

    def linear(self, name: str, matrix: NDArray[np.float32], bias: NDArray[np.float32], rows: str) -> str:
        """Adds a `torch.nn.Linear`: rows [rows, in], matrix [out, in] and bias [out] give [rows, out]."""
        return self.op("Gemm", rows, self.weight(f"{name}.weight", matrix), self.weight(f"{name}.bias", bias), transB=1)

    def product(self, name: str, matrix: NDArray[np.float32], x: str) -> str:
        """Adds a `torch.nn.Linear` without bias: x [..., in], matrix [out, in] give [..., out]."""
        return self.op("MatMul", x, self.weight(name, np.ascontiguousarray(matrix.T)))

    def constant(
        self, value: float | Sequence[int] | Sequence[Sequence[int]], dtype: type[np.generic] = np.int64
    ) -> str:
        """Adds a small constant that lies in the graph itself."""
        array = np.asarray(value, dtype)
        name = f"{array.dtype}{array.tolist()}"
        self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def branch(self, name: str) -> "GraphBuilder":
        """Begins a branch of an `If` or the body of a `Scan`, which see every value made before that node."""
        branch = GraphBuilder(name, self._weights, self._dtype, self._computes_in)
        branch._initializers, branch._counts = self._initializers, self._counts  # names are unique over both
        branch._domains = self._domains
        return branch

    def branch_graph(
        self, outputs: Sequence[onnx.ValueInfoProto], inputs: Sequence[onnx.ValueInfoProto] = ()
    ) -> onnx.GraphProto:
        """Finishes a branch; its weights and constants stay with the graph it belongs to."""
        return onnx.helper.make_graph(self._nodes, self._name, inputs, outputs)

    def name_output(self, value: str, name: str) -> None:
        """Gives a value the name of a graph output."""
        self._nodes.append(onnx.helper.make_node("Identity", [value], [name], name=f"output {name}"))

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """Finishes the graph."""
        weights = list(self._initializers.values())
        return onnx.helper.make_model(
            onnx.helper.make_graph(self._nodes, self._name, inputs, outputs, initializer=weights),
            producer_name=PRODUCER,
            ir_version=IR_VERSION,
            opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in self._domains.items()],
        )


def array_info(name: str, dtype: int, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    """Describes an input or output of a graph; names in the shape stand for dynamic axes."""
    return onnx.helper.make_tensor_value_info(name, dtype, shape)
