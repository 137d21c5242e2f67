import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hiddenstate_exporter.graphs.quantization import WEIGHT_STEPS, activation_scale, quantize_columns

MATRICES = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=False),
)


@given(MATRICES)
def test_each_weight_is_off_by_half_a_step_of_its_output_at_most(matrix: np.ndarray) -> None:
    quantized = quantize_columns(matrix)
    restored = quantized.values.astype(np.float64) * quantized.scales
    steps = np.abs(matrix).max(axis=1, keepdims=True).astype(np.float64) / WEIGHT_STEPS
    assert (np.abs(restored.T - matrix) <= 0.5001 * steps + 1e-30).all()


def test_the_largest_weight_of_each_output_takes_the_last_step() -> None:
    quantized = quantize_columns(np.array([[0.5, -1.0], [4.0, 1.0]], np.float32))
    assert quantized.values.tolist() == [[32, 64], [-64, 16]]  # [in, out]
    assert quantized.scales == pytest.approx([1 / 64, 4 / 64])


def test_an_output_without_weights_stays_zero() -> None:
    quantized = quantize_columns(np.zeros((2, 3), np.float32))
    assert not quantized.values.any()
    assert np.isfinite(quantized.scales).all()


def test_an_activation_at_its_bound_takes_the_last_step() -> None:
    assert 2.0 / activation_scale(2.0) == pytest.approx(127)


@given(MATRICES)
def test_no_pair_of_products_leaves_16_bits_whatever_the_activations_are(matrix: np.ndarray) -> None:
    values = np.abs(quantize_columns(matrix).values.astype(np.int64))  # [in, out]
    assert 2 * 255 * values.max() < 2**15
