"""Models of the Open Inference Protocol as functions, on the stubs alone."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.inference.open_inference_pb2 import InferParameter, ModelInferRequest, ModelStatisticsRequest
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serve_process import serve

AT_ONCE: Final = 16

Arrays = dict[str, NDArray[Any]]
DATATYPES = {"float32": "FP32", "int64": "INT64"}
DTYPES = {name: dtype for dtype, name in DATATYPES.items()}


@contextmanager
def models_of(folder: Path) -> Iterator[Callable[[str], "RemoteModel"]]:
    """Serves a folder in a process of its own and gives its models by name."""
    with serve(folder, "--log-calls", "none") as server, grpc.insecure_channel(server.address) as channel:
        yield lambda name: RemoteModel(channel, name)


def side_by_side(function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
    """Calls a function for each, several at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(function, *arguments))


class RemoteModel:
    """Calls one model; the calling thread waits."""

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        self._stub = GRPCInferenceServiceStub(channel)
        self._name = name

    def __call__(self, inputs: Arrays, *, sequence: int | str = "", start: bool = False, end: bool = False) -> Arrays:
        """Answers all outputs."""
        request = ModelInferRequest(model_name=self._name)
        for name, array in inputs.items():
            request.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
            request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
        if sequence:
            request.parameters["sequence_id"].CopyFrom(_parameter(sequence))
            request.parameters["sequence_start"].bool_param = start
            request.parameters["sequence_end"].bool_param = end
        response = self._stub.ModelInfer(request, timeout=30)
        return {
            output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(tuple(output.shape))
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }

    def rows_per_run(self) -> float:
        """Answers how many rows went together on average."""
        (statistics,) = self._stub.ModelStatistics(ModelStatisticsRequest(name=self._name)).model_stats
        return statistics.inference_count / statistics.execution_count


def _parameter(value: int | str) -> InferParameter:
    return InferParameter(int64_param=value) if isinstance(value, int) else InferParameter(string_param=value)
