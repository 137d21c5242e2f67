"""Tensors of the protocol to arrays and back, and what is refused."""

import struct
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.inference.codec import check_shape, decode_contents, decode_raw, encode_raw
from hiddenstate_server.inference.open_inference_pb2 import InferTensorContents
from hiddenstate_server.inference.tensors import DTYPES, Datatype

NUMBERS = [datatype for datatype in get_args(Datatype) if datatype != "BYTES"]
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
SHAPES = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(st.data(), st.sampled_from(NUMBERS))
def test_numbers_come_back_as_they_were_sent(data: st.DataObject, datatype: Datatype) -> None:
    array = data.draw(arrays(DTYPES[datatype], SHAPES))
    raw = array.astype(DTYPES[datatype].newbyteorder("<")).tobytes()
    read = decode_raw(raw, datatype, array.shape, "x")
    assert read.dtype == DTYPES[datatype]
    np.testing.assert_array_equal(read, array)
    assert encode_raw(read, datatype) == raw


@given(st.data(), st.sampled_from(sorted(FIELDS)))
def test_typed_and_raw_contents_are_read_alike(data: st.DataObject, datatype: Datatype) -> None:
    elements = st.binary(max_size=5) if datatype == "BYTES" else None
    array = data.draw(arrays(DTYPES[datatype], SHAPES, elements=elements))
    contents = InferTensorContents(**{FIELDS[datatype]: array.ravel().tolist()})
    typed = decode_contents(contents, datatype, array.shape, "x")
    raw = decode_raw(encode_raw(array, datatype), datatype, array.shape, "x")
    assert typed.dtype == raw.dtype == DTYPES[datatype]
    np.testing.assert_array_equal(typed, raw)
    np.testing.assert_array_equal(typed, array)


@given(st.lists(st.binary(max_size=300)))
def test_bytes_carry_their_length_before_each_element(elements: list[bytes]) -> None:
    raw = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    array = decode_raw(raw, "BYTES", (len(elements),), "x")
    assert array.tolist() == elements
    assert encode_raw(array, "BYTES") == raw


@given(st.binary(max_size=40), st.integers(0, 8))
def test_hostile_bytes_are_read_or_refused_and_nothing_else(raw: bytes, count: int) -> None:
    try:
        array = decode_raw(raw, "BYTES", (count,), "x")
    except InvalidRequestError:
        return
    assert encode_raw(array, "BYTES") == raw


def test_any_byte_but_0_is_true() -> None:
    assert decode_raw(b"\0\1\2\xff", "BOOL", (4,), "x").tolist() == [False, True, True, True]


def test_an_array_that_is_not_contiguous_is_sent_row_after_row() -> None:
    array: NDArray[Any] = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert encode_raw(array, "INT32") == np.array([0, 3, 1, 4, 2, 5], np.int32).tobytes()


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "reason"),
    [
        (bytes(7), "FP32", (2,), r"x: has 7 raw bytes, FP32 of shape \[2\] takes 8"),
        (bytes(9), "FP32", (2,), "has 9 raw bytes"),
        (b"", "INT64", (1000, 1000), "has 0 raw bytes, .* takes 8,000,000"),
        (b"\1\0\0", "BYTES", (1,), "ends with 3 bytes where an element's length, 4, goes"),
        (b"\xff\xff\xff\xff", "BYTES", (1,), "says that it has 4,294,967,295 bytes where 0 are left"),
        (bytes(8), "BYTES", (1,), "has more than 1 elements of BYTES, its shape takes 1"),
        (bytes(4), "BYTES", (2**31,), "has 1 elements of BYTES, its shape takes 2,147,483,648"),
    ],
)
def test_bytes_that_are_not_the_tensor_are_refused(
    raw: bytes, datatype: Datatype, shape: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        decode_raw(raw, datatype, shape, "x")


@pytest.mark.parametrize(
    ("contents", "datatype", "shape", "reason"),
    [
        (
            InferTensorContents(fp32_contents=[1, 2]),
            "FP32",
            (3,),
            r"x: has 2 elements in contents, shape \[3\] takes 3",
        ),
        (InferTensorContents(), "FP32", (1,), "has 0 elements"),
        (InferTensorContents(fp64_contents=[1]), "FP32", (1,), "in contents.fp64_contents; .* contents.fp32_contents"),
        (InferTensorContents(fp32_contents=[1], fp64_contents=[1]), "FP32", (1,), "contents.fp64_contents"),
        (InferTensorContents(fp32_contents=[1]), "FP16", (1,), "FP16 has no field in contents; .*raw_input_contents"),
        (InferTensorContents(fp32_contents=[1]), "BF16", (1,), "BF16 has no field in contents"),
        (InferTensorContents(int_contents=[0, 128]), "INT8", (2,), "element 1 is 128; INT8 goes from -128 to 127"),
        (InferTensorContents(uint_contents=[65536]), "UINT16", (1,), "element 0 is 65536; UINT16 goes from 0 to 65535"),
    ],
)
def test_typed_contents_that_are_not_the_tensor_are_refused(
    contents: InferTensorContents, datatype: Datatype, shape: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        decode_contents(contents, datatype, shape, "x")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ([1, -1], "send the sizes of what you send, not -1"),
        ([2**40, 2**40], "may have 2,147,483,648 elements"),
        ([0, 2**62], "may have 2,147,483,648 elements"),
        ([1] * 33, "has 33 axes, a tensor may have 32"),
    ],
)
def test_sizes_that_no_tensor_has_are_refused(shape: list[int], reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        check_shape(shape, "x")
