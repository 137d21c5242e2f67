"""Tensors as the Open Inference Protocol sends them, to arrays and back. All numbers are little-endian.

Nothing is allocated for what was not sent: the sizes that a caller claims are held against the bytes that came.
"""

import itertools
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.inference.open_inference_pb2 import InferTensorContents
from hiddenstate_server.inference.tensors import DTYPES, Datatype

_LENGTH: Final = struct.Struct("<I")  # before each element of BYTES
_MAX_RANK: Final = 32  # numpy has 64
_MAX_ELEMENTS: Final = 2**31  # of the sizes that are not 0, so that an empty tensor's claims are bounded too

_FIELDS: Final[Mapping[Datatype, str]] = {
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
_WIDE: Final = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}


def check_shape(shape: Sequence[int], field: str) -> tuple[int, ...]:
    """Returns the sizes that a caller sent.

    Raises:
        InvalidRequestError: no tensor has such sizes.
    """
    if len(shape) > _MAX_RANK:
        raise InvalidRequestError(f"{field}: shape has {len(shape)} axes, a tensor may have {_MAX_RANK}")
    if any(size < 0 for size in shape):
        raise InvalidRequestError(f"{field}: shape is {list(shape)}; send the sizes of what you send, not -1")
    if math.prod(size for size in shape if size) > _MAX_ELEMENTS:
        raise InvalidRequestError(f"{field}: shape is {list(shape)}, a tensor may have {_MAX_ELEMENTS:,} elements")
    return tuple(shape)


def decode_raw(raw: bytes, datatype: Datatype, shape: tuple[int, ...], field: str) -> NDArray[Any]:
    """Returns a tensor that was sent in raw_input_contents; it may be read-only.

    Raises:
        InvalidRequestError: the bytes are not such a tensor.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _objects(_split(raw, count, field)).reshape(shape)
    dtype = DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidRequestError(
            f"{field}: has {len(raw):,} raw bytes, {datatype} of shape {list(shape)} takes {count * dtype.itemsize:,}"
        )
    if datatype == "BOOL":
        return np.not_equal(np.frombuffer(raw, np.uint8), 0).reshape(shape)
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def decode_contents(
    contents: InferTensorContents, datatype: Datatype, shape: tuple[int, ...], field: str
) -> NDArray[Any]:
    """Returns a tensor that was sent in its `contents`.

    Raises:
        InvalidRequestError: the elements are in another field than its datatype's, too few or many, or out of range.
    """
    values = _values(contents, datatype, field)
    if len(values) != math.prod(shape):
        raise InvalidRequestError(
            f"{field}: has {len(values):,} elements in contents, shape {list(shape)} takes {math.prod(shape):,}"
        )
    if datatype == "BYTES":
        return _objects(list(values)).reshape(shape)
    wide = _WIDE.get(_FIELDS[datatype], DTYPES[datatype])
    return _narrow(np.fromiter(values, wide, len(values)), datatype, field).reshape(shape)


def encode_raw(array: NDArray[Any], datatype: Datatype) -> bytes:
    """Returns a tensor as raw_output_contents has it."""
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(element)) + element for element in array.ravel().tolist())
    return array.astype(DTYPES[datatype].newbyteorder("<"), copy=False).tobytes()


def _values(contents: InferTensorContents, datatype: Datatype, field: str) -> Sequence[Any]:
    wanted = _FIELDS.get(datatype)
    if wanted is None:
        raise InvalidRequestError(f"{field}: {datatype} has no field in contents; send it in raw_input_contents")
    for descriptor, _ in contents.ListFields():
        if descriptor.name != wanted:
            raise InvalidRequestError(
                f"{field}: has elements in contents.{descriptor.name}; those of {datatype} go into contents.{wanted}"
            )
    values: Sequence[Any] = getattr(contents, wanted)
    return values


def _narrow(values: NDArray[Any], datatype: Datatype, field: str) -> NDArray[Any]:
    """Returns 8 and 16 bit integers, which are sent as wider ones."""
    dtype = DTYPES[datatype]
    if values.dtype == dtype:
        return values
    limits = np.iinfo(dtype)
    outside = np.flatnonzero((values < limits.min) | (values > limits.max))
    if len(outside):
        raise InvalidRequestError(
            f"{field}: element {outside[0]} is {values[outside[0]]}; {datatype} goes from {limits.min} to {limits.max}"
        )
    return values.astype(dtype)


def _split(raw: bytes, count: int, field: str) -> list[bytes]:
    elements = list(itertools.islice(_elements(raw, field), count + 1))
    if len(elements) != count:
        sent = f"more than {count:,}" if len(elements) > count else f"{len(elements):,}"
        raise InvalidRequestError(f"{field}: has {sent} elements of BYTES, its shape takes {count:,}")
    return elements


def _elements(raw: bytes, field: str) -> Iterator[bytes]:
    start = 0
    while start < len(raw):
        if start + _LENGTH.size > len(raw):
            raise InvalidRequestError(f"{field}: ends with {len(raw) - start} bytes where an element's length, 4, goes")
        (length,) = _LENGTH.unpack_from(raw, start)
        start += _LENGTH.size
        if length > len(raw) - start:
            raise InvalidRequestError(
                f"{field}: an element says that it has {length:,} bytes where {len(raw) - start:,} are left; each "
                "element of BYTES begins with its length in 4 bytes, little-endian"
            )
        yield raw[start : start + length]
        start += length


def _objects(elements: list[bytes]) -> NDArray[Any]:
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array
