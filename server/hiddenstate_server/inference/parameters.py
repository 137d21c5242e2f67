"""Parameters of a request of the Open Inference Protocol; what each does, and what Triton does, is in the docs."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

from hiddenstate_server.errors import InvalidRequestError
from hiddenstate_server.inference.open_inference_pb2 import InferParameter
from hiddenstate_server.inference.tensors import SequenceStep

Parameters = Mapping[str, InferParameter]

EMPTY_FINAL_RESPONSE: Final = "triton_enable_empty_final_response"
_RESERVED: Final = "triton_"  # beginnings of names that callers may not invent
_INTEGER: Final = ("int64_param", "uint64_param")
_MICROSECONDS: Final = 1e6
_FIRST: Final = 1  # the most urgent priority


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CallParameters:
    """What the parameters of a request ask for."""

    sequence: SequenceStep | None = None
    timeout_s: float = math.inf
    is_bulk: bool = False  # whether it goes behind what is not


def read_parameters(parameters: Parameters) -> CallParameters:
    """Returns what parameters ask for; those with names of a caller's own are not looked at.

    Raises:
        InvalidRequestError: one is of the wrong kind, out of range, or has a name that is reserved.
    """
    if not parameters:
        return CallParameters()
    for name in parameters:
        if name.startswith(_RESERVED) and name != EMPTY_FINAL_RESPONSE:
            raise InvalidRequestError(f"parameters: {name[:64]!r} is not known; names with {_RESERVED} are reserved")
    _read(parameters, EMPTY_FINAL_RESPONSE, ("bool_param",), False)
    return CallParameters(
        sequence=_sequence(parameters), timeout_s=_timeout_s(parameters), is_bulk=_is_bulk(parameters)
    )


def _sequence(parameters: Parameters) -> SequenceStep | None:
    start: bool = _read(parameters, "sequence_start", ("bool_param",), False)
    end: bool = _read(parameters, "sequence_end", ("bool_param",), False)
    named: int | str = _read(parameters, "sequence_id", (*_INTEGER, "string_param"), 0)
    if named:
        return SequenceStep(id=named, start=start, end=end)
    if start or end:
        flag = "sequence_start" if start else "sequence_end"
        raise InvalidRequestError(f"parameters: {flag} is set and sequence_id is not; send an id, neither 0 nor empty")
    return None


def _timeout_s(parameters: Parameters) -> float:
    timeout: int = _read(parameters, "timeout", _INTEGER, 0)
    if timeout < 0:
        raise InvalidRequestError(f"parameters: timeout is {timeout}; send microseconds, or 0 for none")
    return timeout / _MICROSECONDS if timeout else math.inf


def _is_bulk(parameters: Parameters) -> bool:
    """Triton counts its levels from 1, the most urgent; 0 is the model's default. Here there are two."""
    priority: int = _read(parameters, "priority", _INTEGER, 0)
    if priority < 0:
        raise InvalidRequestError(
            f"parameters: priority is {priority}; send 0 or 1 to go first, 2 or more to go behind"
        )
    return priority > _FIRST


def _read(parameters: Parameters, name: str, kinds: tuple[str, ...], default: Any) -> Any:
    if name not in parameters:
        return default
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in kinds:
        raise InvalidRequestError(f"parameters: {name} is sent as {kind or 'nothing'}; send it as {' or '.join(kinds)}")
    return getattr(parameter, kind)
