from pathlib import Path

import numpy as np
import onnx
import pytest

from hiddenstate_exporter.graphs.weights import (
    ALIGNMENT,
    WEIGHTS_FILE,
    WeightsError,
    WeightsFile,
    round_weights,
    tensor,
)


def _place(stored: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in stored.external_data}


def test_an_array_met_twice_is_stored_once(tmp_path: Path) -> None:
    file = WeightsFile()
    first = file.add("embedding.weight", np.arange(32, dtype=np.float32))
    second = file.add("decoder.weight", np.arange(32, dtype=np.float32))
    file.write(tmp_path)
    assert _place(first) == _place(second)
    assert (first.name, second.name) == ("embedding.weight", "decoder.weight")
    assert (tmp_path / WEIGHTS_FILE).stat().st_size == 128


def test_every_array_starts_at_an_aligned_offset_and_reads_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(size).astype(np.float16) for size in (1, 31, 32, 33, 100)]
    file = WeightsFile()
    places = [_place(file.add(str(i), array)) for i, array in enumerate(arrays)]
    file.write(tmp_path)
    data = (tmp_path / WEIGHTS_FILE).read_bytes()
    for place, array in zip(places, arrays, strict=True):
        offset = int(place["offset"])
        assert offset % ALIGNMENT == 0
        assert data[offset : offset + int(place["length"])] == array.tobytes()


def test_a_strided_array_is_stored_in_row_order(tmp_path: Path) -> None:
    file = WeightsFile()
    file.add("x", np.arange(6, dtype=np.float32).reshape(2, 3).T)
    file.write(tmp_path)
    stored = np.frombuffer((tmp_path / WEIGHTS_FILE).read_bytes(), np.float32)[:6]
    assert stored.tolist() == [0, 3, 1, 4, 2, 5]


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(WeightsError, match=r"tensor 'decoder\.bias' is missing"):
        tensor({}, "decoder.bias", (None,))


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (None,), (2, 3, 1)])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(WeightsError, match=r"tensor 'x' has shape \[2, 3\], expected \["):
        tensor({"x": np.zeros((2, 3), np.float32)}, "x", shape)


def test_rounding_gives_what_half_precision_gives_back() -> None:
    (rounded,) = round_weights({"x": np.array([1 / 3, 1e-9], np.float32)}, "float16").values()
    assert rounded.dtype == np.float32
    assert rounded.tolist() == [0.333251953125, 0.0]


def test_rounding_to_float32_changes_nothing() -> None:
    array = np.array([1 / 3, 1e30], np.float32)
    assert round_weights({"x": array}, "float32")["x"].tolist() == array.tolist()


def test_a_weight_too_large_for_half_precision_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"tensor 'x' holds values that are too large for float16"):
        round_weights({"x": np.array([7e4], np.float32)}, "float16")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(WeightsError, match=r"tensor 'x' holds values that are not finite"):
        round_weights({"x": np.array([value], np.float32)}, "float16")
