"""Draws messages that a hostile or broken caller might send: nearly right ones, odd values, damaged bytes."""

import struct
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

WORDS = (
    *(
        "",
        "tiny-lm",
        "tiny-encoder",
        "tagger",
        "nobody",
        "1",
        "2",
        "newest",
        "-1",
        "I would like",
        "to",
        "\0",
        "é\u0301",
    ),
    *("INT64", "FP32", "BYTES", "BOOL", "UINT8", "text", "tokens", "state", "prefix", "top_k", "sentences", "frames"),
    *("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "classification", "binary_data_size"),
    *("word", "embeddings", "../../etc/passwd", "%s%n", "x" * 300, "I would " * 400, "\U0010ffff", "\u202e"),
)
WHOLE = (0, 1, 2, 3, 5, 16, -1, 100, 1000, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
REAL = (0.0, 1.0, -1.0, 0.5, 1e-30, 1e38, float("inf"), float("-inf"), float("nan"))
BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_DEEPEST = 4


class Drawing:
    """Draws from a seed, so that what was found can be found again."""

    def __init__(self, random: Random, blobs: Sequence[bytes]) -> None:
        """`blobs` are bytes that a server has returned, for example states."""
        self.random = random
        self._blobs = blobs

    def request(self, seeds: Sequence[Message], descriptor: Descriptor) -> bytes:
        """Draws the bytes of a request; `seeds` are right ones."""
        message = GetMessageClass(descriptor)()
        if seeds and self.random.random() < 0.7:
            message.CopyFrom(self.random.choice(seeds))
        if self.random.random() < 0.8:
            self._fill(message, self.random.choice((0.05, 0.2, 0.6)))
        data = message.SerializeToString()
        return self.damaged(data) if self.random.random() < 0.3 else data

    def damaged(self, data: bytes) -> bytes:
        """Changes some bytes, or cuts, or adds, or takes others."""
        spoilt = bytearray(data)
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randint(0, len(spoilt))
            match self.random.randrange(4):
                case 0 if spoilt:
                    spoilt[at % len(spoilt)] ^= 1 << self.random.randrange(8)
                case 1:
                    del spoilt[at : at + self.random.randint(1, 9)]
                case 2:
                    spoilt[at:at] = self.random.randbytes(self.random.randint(1, 9))
                case _:
                    del spoilt[at:]
        return bytes(spoilt)

    def _fill(self, message: Message, share: float, depth: int = 0) -> None:
        for field in message.DESCRIPTOR.fields:
            if self.random.random() < share:
                self._set(message, field, share, depth)

    def _set(self, message: Message, field: Any, share: float, depth: int) -> None:
        if field.message_type and field.message_type.GetOptions().map_entry:
            self._add_entry(getattr(message, field.name), field.message_type, share, depth)
        elif field.message_type:
            if depth < _DEEPEST:
                part = getattr(message, field.name)
                self._fill(part.add() if field.is_repeated else _present(part), share, depth + 1)
        elif field.is_repeated:
            values = getattr(message, field.name)
            if self.random.random() < 0.5:
                del values[:]
            values.extend(self._value(field) for _ in range(self.random.choice((0, 1, 1, 2, 3, 40))))
        else:
            setattr(message, field.name, self._value(field))

    def _add_entry(self, entries: Any, entry: Descriptor, share: float, depth: int) -> None:
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        if value.message_type:
            self._fill(entries[self._value(key)], max(share, 0.3), depth + 1)
        else:
            entries[self._value(key)] = self._value(value)

    def _value(self, field: FieldDescriptor) -> Any:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return self._blob()
            case FieldDescriptor.CPPTYPE_STRING:
                return self.random.choice(WORDS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return self.random.choice((0, 1, 2, 3, 99, -1))
            case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
                return self.random.choice(REAL)
            case _:
                low, high = BITS[field.cpp_type]
                return max(low, min(high, self.random.choice(WHOLE)))

    def _blob(self) -> bytes:
        match self.random.randrange(6):
            case 0 if self._blobs:
                return self.random.choice(self._blobs)
            case 1 if self._blobs:
                return self.damaged(self.random.choice(self._blobs))
            case 2:
                return np.array(self.random.choices(WHOLE[:6], k=self.random.randint(0, 9)), dtype="<i8").tobytes()
            case 3:
                text = self.random.choice(WORDS).encode()
                return struct.pack("<I", self.random.choice((len(text), 0, 2**32 - 1))) + text
            case 4:
                return np.array(self.random.choices(REAL, k=self.random.randint(0, 9)), dtype="<f4").tobytes()
            case _:
                return self.random.randbytes(self.random.choice((0, 1, 3, 4, 7, 64, 500)))


def _present(part: Message) -> Message:
    part.SetInParent()
    return part
