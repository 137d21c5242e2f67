"""Numbers in 8 bits: weights by column, activations by a bound that they cannot leave.

A scale that is measured on a batch (dynamic quantisation) lets a row's neighbours change its answer. Here each
activation has a proven bound and with it a constant scale, and integer sums have no order: a row gives the same bits
alone and in any batch. Weights take one bit less than a byte has: without VNNI, x86 adds products up in pairs of 16
bits, which must not overflow.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 127  # of activations, between 0 and the largest magnitude, on either side
WEIGHT_BITS: Final = 7
WEIGHT_STEPS: Final = 1 << WEIGHT_BITS - 1  # of weights; a pair of products has 2 * 255 * 64 at most, below 2**15
ZERO_POINT: Final = 128  # of activations: uint8, since ONNX Runtime multiplies signed ones tens of times slower


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A matrix that stands on the right of a product; column n is `values[:, n] * scales[n]`."""

    values: NDArray[np.int8]  # [in, out], -64..64
    scales: NDArray[np.float32]  # [out]


def quantize_columns(matrix: NDArray[np.floating]) -> QuantizedMatrix:
    """Rounds the weights of a linear map, [out, in] as PyTorch has them, with one scale for each output."""
    largest = np.abs(matrix).max(axis=1)  # [out]
    scales = np.where(largest > 0, largest / WEIGHT_STEPS, 1.0).astype(np.float32)
    values = np.clip(np.rint(matrix / scales[:, None]), -WEIGHT_STEPS, WEIGHT_STEPS).astype(np.int8)
    return QuantizedMatrix(np.ascontiguousarray(values.T), scales)


def activation_scale(bound: float) -> float:
    """Returns what one step of an activation within -bound..bound is worth."""
    return bound / STEPS
