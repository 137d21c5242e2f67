"""What the Open Inference Protocol speaks of: tensors by name, and models that take them to others."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hiddenstate_server.inference.statistics import Statistics

Datatype = Literal[
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    "BYTES",
]

DTYPES: Final[Mapping[Datatype, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),  # its bits: numpy has no such number
    "BYTES": np.dtype(np.object_),  # of `bytes`
}
"""How an array holds each datatype, in the byte order of this machine."""

Tensors = dict[str, NDArray[Any]]
"""Arrays by name, with the dtypes of `DTYPES`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output as a model declares it."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]  # -1 for any size; the batch axis is part of it
    optional: bool = False  # whether a call may leave it out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStep:
    """Where a call stands in its sequence."""

    id: int | str  # neither 0 nor empty, which mean no sequence
    start: bool = False
    end: bool = False


class TensorModel(Protocol):
    """What the protocol asks of a model. All methods run on the event loop; cancelling `infer` abandons its work."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def platform(self) -> str:
        """Who runs it, in Triton's words: `onnxruntime_onnx` for an ONNX file."""

    @property
    def provider(self) -> str:
        """ONNX Runtime's execution provider, for example `CPUExecutionProvider`."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What a caller sends; the state that the server keeps for a sequence is not among it."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """What a caller is answered; the state that the server keeps for a sequence is not among it."""

    @property
    def max_batch_size(self) -> int:
        """Rows of one call and of one run; 0 for a model that is run for each call by itself.

        Above 0, axis 0 of every input and output is the batch.
        """

    @property
    def stateful(self) -> bool:
        """Whether calls form sequences whose state the server keeps."""

    @property
    def sequence_idle_s(self) -> float:
        """How long a sequence may be silent before it is let go; 0 where there are none."""

    @property
    def statistics(self) -> Statistics:
        """What was run so far, and how long it took."""

    async def infer(
        self,
        inputs: Tensors,
        *,
        outputs: Sequence[str] = (),
        deadline: float = math.inf,
        sequence: SequenceStep | None = None,
        is_bulk: bool = False,
    ) -> Tensors:
        """Answers the outputs that are named, or all, in that order. `deadline` is a time of time.monotonic();
        what is bulk goes behind what is not.

        Raises:
            ServingError: an input is missing, unknown, or of the wrong datatype or shape; the sequence is unknown, has
                ended or expired; the model is overloaded or drains (see errors.py).
        """

    async def drain(self) -> None:
        """Refuses new work and returns when all work is over."""

    def close(self) -> None:
        """Ends the runner thread."""
