"""Writes int8 products into a graph, and keeps the bound of everything that they read."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.graph_builder import FLOAT, MICROSOFT, GraphBuilder
from hiddenstate_exporter.graphs.quantization import ZERO_POINT, activation_scale, quantize_columns

_HALF: Final = 0.5 * (1 + 1e-4)  # of a step: what rounding leaves, and float32 rounding of that


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

    def fine_product(self, name: str, matrix: NDArray[np.floating], value: str, bound: float) -> str:
        """Like `product` without bias, for a float32 value whose bound is far above its usual size.

        The value is rounded to 8 bits and what that leaves of it to 8 more, so that a hundredth of the bound still has
        as many steps as another value has.
        """
        coarse = self.quantize(value, bound)
        steps = self.builder.op("Cast", coarse.value, to=FLOAT)
        offset = self.builder.op("Sub", steps, self.builder.constant(ZERO_POINT, np.float32))
        rest = self.builder.op("Sub", value, self.builder.op("Mul", offset, self._scale(bound)))
        fine = self.quantize(rest, activation_scale(bound) * _HALF)
        products = (self.product(name, matrix, rows) for rows in (coarse, fine))
        return self.builder.op("Add", *products)

    def _scale(self, bound: float) -> str:
        return self.builder.constant(activation_scale(bound), np.float32)

    def _zero_point(self) -> str:
        return self.builder.constant(ZERO_POINT, np.uint8)
