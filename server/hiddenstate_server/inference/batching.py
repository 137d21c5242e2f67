"""Decides whether rows of several calls may go through a graph together.

They may if every input and output has an open batch axis, and if a row gives the same alone and beside others. That
cannot be read off a graph: some scale by the largest value of a whole batch (dynamic int8), some mix rows, and an open
first axis may be time. So it is tried, unless the config says.
"""

import dataclasses
from collections.abc import Mapping

from hiddenstate_server.errors import BundleError
from hiddenstate_server.inference.onnx_config import CONFIG_FILE, OnnxConfig
from hiddenstate_server.inference.onnx_runner import OnnxRunner
from hiddenstate_server.inference.signature import Port, Signature
from hiddenstate_server.inference.trial import Outcome, try_rows, warm_up


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """What was decided."""

    max_batch: int  # rows of one run; 0: each call by itself
    reason: str
    shapes: Mapping[str, tuple[int, ...]]  # of the outputs of one row, if the graph could be run


def find_batching(config: OnnxConfig, signature: Signature, runner: OnnxRunner, max_batch: int) -> Batching:
    """Decides for at most so many rows. Runs the graph a few times.

    Raises:
        BundleError: the config turns batching on, but an input or output has no batch axis.
    """
    closed = _closed(signature)
    if closed and config.batching == "on":
        raise BundleError(f"batching: is on, but {closed}; say in {CONFIG_FILE} which axis it is, or turn it off")
    if config.batching == "off" or closed:
        reason = closed or f"{CONFIG_FILE} turns batching off"
        return Batching(max_batch=0, reason=reason, shapes=warm_up(signature, runner))
    outcome = try_rows(signature, runner)
    if config.batching == "on":
        return _demanded(outcome, max_batch)
    problem = _names_differ(signature) or outcome.problem
    reason = problem or "a row gives the same alone and beside others"
    return Batching(max_batch=0 if problem else max_batch, reason=reason, shapes=outcome.shapes)


def _demanded(outcome: Outcome, max_batch: int) -> Batching:
    if outcome.lacks_axis:
        raise BundleError(f"batching: is on, but {outcome.problem}; say in {CONFIG_FILE} which axis it is")
    reason = f"{CONFIG_FILE} turns batching on" + (f", although {outcome.problem}" if outcome.problem else "")
    return Batching(max_batch=max_batch, reason=reason, shapes=outcome.shapes)


def _closed(signature: Signature) -> str | None:
    """Says which port has no open batch axis, as far as the graph tells."""
    inputs = [port for port in signature.inputs if port.batch_axis is not None]
    if not inputs:
        return "no input has a batch axis"
    states = [port for state in signature.states for port in (state.input, state.output)]
    for port in (*inputs, *signature.outputs, *states):
        if port.dims and not port.has_open_batch:  # without dims it is unknown; the trial will tell
            return f"axis {port.batch_axis} of {port.name!r}, {list(port.shape)}, does not take any number of rows"
    return None


def _names_differ(signature: Signature) -> str | None:
    """Says if the graph itself calls the batch axes of inputs by different names."""
    names = {name: port for port in signature.inputs if (name := _batch_name(port))}
    if len(names) < 2:
        return None
    (one, first), (other, second), *_ = names.items()
    return f"the batch axis is {one!r} of {first.name!r}, but {other!r} of {second.name!r}"


def _batch_name(port: Port) -> str | None:
    name = None if port.batch_axis is None else port.dims[port.batch_axis]
    return name if isinstance(name, str) else None
