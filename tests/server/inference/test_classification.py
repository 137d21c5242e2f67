"""The classification extension: the largest values as text."""

import numpy as np

from hiddenstate_server.inference.classification import classify


def test_each_row_has_its_largest_values_first_and_the_first_of_equal_ones() -> None:
    scores = np.array([[0.25, 1.5, 0.25, -1], [3, 2, 1, 0]], np.float32)
    assert classify(scores, "FP32", 3, batched=True).tolist() == [
        [b"1.500000:1", b"0.250000:0", b"0.250000:2"],
        [b"3.000000:0", b"2.000000:1", b"1.000000:2"],
    ]


def test_without_a_batch_all_values_compete_and_no_more_are_answered_than_there_are() -> None:
    assert classify(np.array([[1, 5], [200, 7]], np.uint8), "UINT8", 9, batched=False).tolist() == [
        b"200:2",
        b"7:3",
        b"5:1",
        b"1:0",
    ]


def test_bf16_is_compared_as_numbers_and_text_as_text() -> None:
    negative_and_positive = np.array([[0xBF80, 0x3F80]], np.uint16)  # -1 and 1
    assert classify(negative_and_positive, "BF16", 1, batched=True).tolist() == [[b"1.000000:1"]]
    assert classify(np.array([[b"a", b"b"]], object), "BYTES", 1, batched=True).tolist() == [[b"b:1"]]


def test_no_rows_have_no_classes() -> None:
    assert classify(np.empty((0, 3), np.float32), "FP32", 2, batched=True).shape == (0, 2)
