"""Alters what is right: protobuf messages, JSON values, texts of settings. What comes out is nearly right."""

import copy
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from fuzz.messages import BITS, REAL, WHOLE, WORDS, Drawing

_TIMES = (1, 1, 2, 3, 5)
_SCALARS: Sequence[Any] = (None, True, False, 0, 1, -1, 2**31, 2**64, 0.5, "", "a", [], {}, *WORDS[:3])


def altered_message(drawing: Drawing, seed: Message, words: Sequence[str] = ()) -> Message:
    """Returns a copy in which some fields, at any depth, were changed, doubled or taken away.

    `words` are drawn for texts, beside those that the message has.
    """
    message = type(seed)()
    message.CopyFrom(seed)
    known = [*words, *_texts(message)]
    for _ in range(drawing.random.choice(_TIMES)):
        _alter_part(drawing, drawing.random.choice(list(_parts(message))), known)
    return message


def altered_json(random: Random, seed: Any) -> Any:
    """Returns a copy in which some values, at any depth, were replaced, exchanged, doubled or taken away."""
    value = [copy.deepcopy(seed)]
    for _ in range(random.choice(_TIMES)):
        places = list(_places(value))
        holder, key = random.choice(places)
        match random.randrange(5):
            case 0:
                other_holder, other_key = random.choice(places)
                holder[key] = copy.deepcopy(other_holder[other_key])
            case 1 if holder is not value:
                del holder[key]
            case 2 if isinstance(holder, list) and holder is not value:
                holder.insert(key, copy.deepcopy(holder[key]))
            case 3 if isinstance(holder, dict):
                holder[random.choice(WORDS)] = holder.pop(key)
            case _:
                holder[key] = random.choice(_SCALARS)
    return value[0]


def altered_lines(random: Random, seed: str, values: Sequence[str]) -> str:
    """Returns a text of `key = value` lines with some of them changed, exchanged, doubled or taken away."""
    lines = seed.splitlines()
    for _ in range(random.choice(_TIMES)):
        at = random.randrange(len(lines) + 1)
        match random.randrange(4):
            case 0:
                del lines[at : at + 1]
            case 1:
                lines[at:at] = [random.choice(lines or [""])]
            case 2 if at < len(lines) and "=" in lines[at]:
                lines[at] = f"{lines[at].partition('=')[0]}= {random.choice(values)}"
            case _:
                lines[at:at] = [f"{random.choice(WORDS)} = {random.choice(values)}"]
    return "\n".join(lines)


def _alter_part(drawing: Drawing, part: Message, words: Sequence[str]) -> None:
    random = drawing.random
    held = [field for field, _ in part.ListFields()]
    if not part.DESCRIPTOR.fields:
        return
    field: Any = random.choice(held if held and random.random() < 0.7 else list(part.DESCRIPTOR.fields))
    if field.is_repeated:
        _alter_repeated(drawing, getattr(part, field.name), field, words)
    elif random.random() < 0.2:
        part.ClearField(field.name)
    elif field.message_type:
        getattr(part, field.name).SetInParent()
    else:
        setattr(part, field.name, _value(random, field, words))


def _alter_repeated(drawing: Drawing, values: Any, field: FieldDescriptor, words: Sequence[str]) -> None:
    random = drawing.random
    what = random.randrange(4)
    if len(values) and what == 0:
        del values[random.randrange(len(values))]
    elif field.message_type and len(values) and what < 3:
        values.add().CopyFrom(random.choice(list(values)))
    elif field.message_type:
        values.add()
    elif len(values) and what == 1:
        values[random.randrange(len(values))] = _value(random, field, words)
    else:
        values.append(_value(random, field, words))


def _value(random: Random, field: FieldDescriptor, words: Sequence[str]) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return random.choice((random.choice(words).encode(), random.randbytes(random.choice((0, 1, 4, 64)))))
        case FieldDescriptor.CPPTYPE_STRING:
            return random.choice(words)
        case FieldDescriptor.CPPTYPE_BOOL:
            return random.random() < 0.5
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return random.choice(REAL)
        case FieldDescriptor.CPPTYPE_ENUM if field.enum_type:
            return random.choice([value.number for value in field.enum_type.values])
        case _:
            low, high = BITS[field.cpp_type]
            return max(low, min(high, random.choice(WHOLE)))


def _parts(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for part in value if field.is_repeated else (value,):
                yield from _parts(part)


def _texts(message: Message) -> list[str]:
    texts: set[str] = set()
    for part in _parts(message):
        for field, value in part.ListFields():
            if field.cpp_type == field.CPPTYPE_STRING and field.type != field.TYPE_BYTES:
                texts.update(value if field.is_repeated else (value,))
    return sorted(texts)  # in the same order whenever the seed is the same


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Yields each value below, as where it is held."""
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key])
