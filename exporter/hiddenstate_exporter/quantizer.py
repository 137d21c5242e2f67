"""Writes int8 products into a graph, and keeps the bound of everything that they read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graph_builder import MICROSOFT, GraphBuilder
from hiddenstate_exporter.quantization import ZERO_POINT, activation_scale, quantize_columns


@dataclass(frozen=True, slots=True)
class Quantized:
    """An activation in uint8; 128 stands for 0, and 255 for `bound`."""

    value: str
    bound: float


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

    def product(
        self,
        name: str,
        matrix: NDArray[np.floating],
        rows: Quantized,
        bias: NDArray[np.floating] | None = None,
    ) -> str:
        """Adds a `torch.nn.Linear`: rows [..., in], matrix [out, in], bias [out] give float32 [..., out]."""
        quantized = quantize_columns(matrix)
        return self.builder.op(
            "MatMulIntegerToFloat",
            rows.value,
            self.builder.stored_exactly(f"{name}.int8", quantized.values),
            self._scale(rows.bound),
            self.builder.stored_exactly(f"{name}.scale", quantized.scales),
            self._zero_point(),
            "",  # weights have no zero point
            "" if bias is None else self.builder.stored_exactly(f"{name}.bias", bias.astype(np.float32)),
            domain=MICROSOFT,
        )

    def _scale(self, bound: float) -> str:
        return self.builder.constant(activation_scale(bound), np.float32)

    def _zero_point(self) -> str:
        return self.builder.constant(ZERO_POINT, np.uint8)
