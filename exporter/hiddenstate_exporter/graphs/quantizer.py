"""Writes int8 products into a graph, and keeps the bound of everything that they read."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.graph_builder import MICROSOFT, GraphBuilder
from hiddenstate_exporter.graphs.quantization import STEPS, ZERO_POINT, activation_scale, quantize_columns

_TINY: Final = 1e-30


@dataclass(frozen=True, slots=True)
class Quantized:
    """An activation in uint8; 128 stands for 0, and 255 for `bound`."""

    value: str
    bound: float
    row_scale: str = ""  # float32 [rows, 1], what the row is still to be multiplied with


class Quantizer:
    """Adds int8 products to a graph. `bounds` has the largest absolute value of all that was quantised, by its name."""

    def __init__(self, builder: GraphBuilder) -> None:
        self.builder = builder
        self.bounds: dict[str, float] = {}

    def quantize(self, value: str, bound: float) -> Quantized:
        """Rounds a float32 value that never leaves -bound..bound."""
        self.bounds[value] = bound
        scale, zero_point = self._scale(bound), self._zero_point()
        return Quantized(self.builder.op("QuantizeLinear", value, scale, zero_point), bound)

    def quantize_rows(self, name: str, value: str) -> Quantized:
        """Rounds a float32 value [rows, in] whose bound, if it has one, lies far above its usual size.

        Each row is scaled by its own largest value, and still depends on no other. A product with it costs one more
        multiplication of its result.
        """
        largest = self.builder.op("ReduceMax", self.builder.op("Abs", value), axes=[1], keepdims=1)  # [rows, 1]
        scale = self.builder.op("Mul", largest, self._scale(1.0))
        scale = self.builder.op("Max", scale, self.builder.constant(_TINY, np.float32))  # a row may be all zeros
        steps = self.quantize(self.builder.op("Div", value, scale, node=f"{name}.steps"), STEPS)
        return Quantized(steps.value, steps.bound, scale)

    def product(
        self, name: str, matrix: NDArray[np.floating], rows: Quantized, bias: NDArray[np.floating] | None = None
    ) -> str:
        """Adds a `torch.nn.Linear`: rows [..., in], matrix [out, in], bias [out] give float32 [..., out]."""
        shift = "" if bias is None else self.builder.stored_exactly(f"{name}.bias", bias.astype(np.float32))
        if not rows.row_scale:
            return self._product(name, matrix, rows, shift)
        result = self.builder.op("Mul", self._product(name, matrix, rows, ""), rows.row_scale)
        return self.builder.op("Add", result, shift) if shift else result

    def _product(self, name: str, matrix: NDArray[np.floating], rows: Quantized, shift: str) -> str:
        quantized = quantize_columns(matrix)
        return self.builder.op(
            "MatMulIntegerToFloat",
            rows.value,
            self.builder.stored_exactly(f"{name}.int8", quantized.values),
            self._scale(rows.bound),
            self.builder.stored_exactly(f"{name}.scale", quantized.scales),
            self._zero_point(),
            "",  # weights have no zero point
            shift,
            domain=MICROSOFT,
        )

    def _scale(self, bound: float) -> str:
        return self.builder.constant(activation_scale(bound), np.float32)

    def _zero_point(self) -> str:
        return self.builder.constant(ZERO_POINT, np.uint8)
