"""What servers and models say of themselves: ServerMetadata, ModelMetadata."""

import importlib.metadata
from collections.abc import Iterable, Sequence
from typing import Final

from hiddenstate_server.inference.open_inference_pb2 import ModelMetadataResponse, ServerMetadataResponse
from hiddenstate_server.inference.tensors import TensorModel, TensorSpec

SERVER_NAME: Final = "hiddenstate"
EXTENSIONS: Final = (
    "classification",
    "sequence",
    "sequence(string_id)",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)


def server_metadata() -> ServerMetadataResponse:
    """Returns what the server is."""
    version = importlib.metadata.version("hiddenstate")
    return ServerMetadataResponse(name=SERVER_NAME, version=version, extensions=EXTENSIONS)


def model_metadata(model: TensorModel, versions: Iterable[str]) -> ModelMetadataResponse:
    """Returns what a model takes and gives."""
    return ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=model.platform,
        inputs=_tensors(model.inputs),
        outputs=_tensors(model.outputs),
    )


def _tensors(specs: Sequence[TensorSpec]) -> list[ModelMetadataResponse.TensorMetadata]:
    return [
        ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in specs
    ]
