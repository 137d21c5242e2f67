"""Looks into an ONNX file before ONNX Runtime does: whether it reads files that it must not.

Of ONNX's schema (onnx.proto, which only ever grows) just the few messages are described here in which tensors can
stand; all other fields are unknown ones and skipped. So the server needs no further package.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from hiddenstate_server.errors import BundleError

_EXTERNAL: Final = 1  # TensorProto.data_location

# message -> its fields as (name, number, type or message, repeated)
_SCHEMA: Final[dict[str, tuple[tuple[str, int, str, bool], ...]]] = {
    "Model": (("graph", 7, "Graph", False), ("training", 20, "Training", True), ("functions", 25, "Function", True)),
    "Training": (("initialization", 1, "Graph", False), ("algorithm", 2, "Graph", False)),
    "Function": (("node", 7, "Node", True),),
    "Graph": (
        ("node", 1, "Node", True),
        ("initializer", 5, "Tensor", True),
        ("sparse_initializer", 15, "SparseTensor", True),
    ),
    "Node": (("attribute", 5, "Attribute", True),),
    "Attribute": (
        ("t", 5, "Tensor", False),
        ("g", 6, "Graph", False),
        ("tensors", 10, "Tensor", True),
        ("graphs", 11, "Graph", True),
        ("sparse_tensor", 22, "SparseTensor", False),
        ("sparse_tensors", 23, "SparseTensor", True),
    ),
    "SparseTensor": (("values", 1, "Tensor", False), ("indices", 2, "Tensor", False)),
    "Tensor": (("external_data", 13, "Entry", True), ("data_location", 14, "int32", False)),
    "Entry": (("key", 1, "string", False), ("value", 2, "string", False)),
}


def external_files(path: Path) -> frozenset[Path]:
    """Returns the files in which an ONNX file's weights lie, itself aside.

    Raises:
        BundleError: it is no ONNX file, or names files outside of its folder.
    """
    model = _read(path)
    folder = path.parent.resolve()
    return frozenset(_inside(folder, location, path) for location in _locations(model))


def _read(path: Path) -> message.Message:
    try:
        if not path.is_file():
            raise BundleError(f"{path}: is missing, or is no file")
        model = _CLASSES["Model"]()
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from None
    except message.DecodeError:
        raise BundleError(f"{path}: is no ONNX file, or is damaged") from None
    return model


def _inside(folder: Path, location: str, path: Path) -> Path:
    """Checks a location as ONNX Runtime is about to use it; links may not lead out either."""
    relative = PurePosixPath(location)
    is_plain = location and "\0" not in location and not relative.is_absolute() and ".." not in relative.parts
    found = (folder / relative).resolve() if is_plain else None
    if found is None or not found.is_relative_to(folder):
        raise BundleError(f"{path}: has weights in {location[:256]!r}; they must lie in its own folder")
    if not found.is_file():
        raise BundleError(f"{path}: its weights {location[:256]!r} are missing, or are no file")
    return found


def _locations(part: Any) -> Iterator[str]:
    """Yields the location of each external tensor below a message."""
    if part.DESCRIPTOR.name == "Tensor":
        if part.data_location == _EXTERNAL or part.external_data:
            yield from (entry.value for entry in part.external_data if entry.key == "location")
        return
    for field, value in part.ListFields():
        for child in value if field.is_repeated else (value,):
            yield from _locations(child)


def _classes() -> dict[str, type[message.Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="onnx_part.proto", package="onnx_part", syntax="proto2")
    for name, fields in _SCHEMA.items():
        described = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            described.field.append(_field(field, number, kind, repeated))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"onnx_part.{name}")) for name in _SCHEMA}


def _field(name: str, number: int, kind: str, repeated: bool) -> descriptor_pb2.FieldDescriptorProto:
    field = descriptor_pb2.FieldDescriptorProto(name=name, number=number)
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    scalars = {"int32": field.TYPE_INT32, "string": field.TYPE_STRING}
    if kind in scalars:
        field.type = scalars[kind]
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".onnx_part.{kind}"
    return field


# All of them, made once and never let go of: protobuf remembers the class of a message that stands in another one only
# weakly, and gives a thread what the garbage collector is taking apart in another (a segmentation fault).
_CLASSES: Final = _classes()
