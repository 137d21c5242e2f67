"""Holds open_inference.proto against the messages that tritonclient was generated from: names, numbers, kinds.

Run by `with_tritonclient.py`, in tritonclient's environment, which has Triton's messages and a protoc of no use; so the
file is read as text.
"""

import re
import sys
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

KINDS = {value: name[5:].lower() for name, value in vars(FieldDescriptor).items() if name.startswith("TYPE_")}
NAMED = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_ENUM)


def declared(path):
    """Yields (message or enum, field, number, kind) of a .proto file."""
    outer = []
    for line in path.read_text().splitlines():
        line = line.split("//")[0].strip()
        if opened := re.fullmatch(r"(message|enum|oneof|service) (\w+) \{(\})?", line):
            if not opened[3]:
                outer.append("" if opened[1] in ("oneof", "service") else opened[2])
        elif line == "}":
            outer.pop()
        elif found := re.fullmatch(r"(?:repeated )?(?:([\w.]+|map<.*>) )?(\w+) = (\d+);", line):
            yield ".".join(filter(None, outer)), found[2], int(found[3]), found[1]


def theirs():
    """Returns Triton's fields and enum values, by message and name."""
    found = {}

    def add(message, name):
        for field in message.fields:
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            kind = (field.message_type or field.enum_type).name if field.type in NAMED else KINDS[field.type]
            found[name, field.name] = (field.number, "map" if is_map else kind)
        for nested in message.nested_types:
            add(nested, f"{name}.{nested.name}")
        for enum in message.enum_types:
            found.update({(f"{name}.{enum.name}", value.name): (value.number, None) for value in enum.values})

    for file in (model_config_pb2.DESCRIPTOR, service_pb2.DESCRIPTOR):
        for message in file.message_types_by_name.values():
            add(message, message.name)
        for enum in file.enum_types_by_name.values():
            found.update({(enum.name, value.name): (value.number, None) for value in enum.values})
    return found


known, count = theirs(), 0
for message, field, number, kind in declared(Path(sys.argv[2]) / "hiddenstate_server/inference/open_inference.proto"):
    kind = kind and ("map" if kind.startswith("map<") else kind.rpartition(".")[2])
    assert known.get((message, field)) == (number, kind), (message, field, number, kind, known.get((message, field)))
    count += 1
assert count > 150, count
print(f"  tritonclient: {count} fields and values have Triton's names, numbers and kinds")
