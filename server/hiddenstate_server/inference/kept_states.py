"""Runs the calls of a model with a state: the state of its sequence goes into each call, and the next one comes out."""

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from hiddenstate_server.errors import InvalidRequestError, ModelFailedError
from hiddenstate_server.inference.sequences import Sequences
from hiddenstate_server.inference.shape_queue import Call
from hiddenstate_server.inference.signature import StatePort
from hiddenstate_server.inference.tensors import SequenceStep, Tensors


class KeptStates:
    """The states of one model's sequences. Belongs to the event loop."""

    def __init__(self, model: str, states: Sequence[StatePort], sequences: Sequences[Tensors]) -> None:
        self.sequences = sequences
        self._model = model
        self._states = states

    async def run(self, call: Call, step: SequenceStep | None, run: Callable[[Call], Awaitable[None]]) -> None:
        """Runs a call as a step of its sequence.

        Raises:
            InvalidRequestError: it names no sequence, or has another number of rows than the steps before.
            ServingError: the sequence is not held, or the call failed.
        """
        if step is None:
            raise InvalidRequestError(
                f"sequence_id: is missing; {self._model} keeps a state, so name a sequence and begin it with "
                "sequence_start"
            )
        size = sum(state.start_bytes(call.rows) for state in self._states) if step.start else 0
        async with self.sequences.step(step, size) as turn:
            state = self._start(call.rows) if turn.state is None else turn.state
            self._check_rows(call, state)
            call.inputs |= state
            await run(call)
            if not step.end:
                following = self._following(call)
                turn.keep(following, _size(following))

    def _start(self, rows: int) -> Tensors:
        return {state.input.name: state.start(rows) for state in self._states}

    def _following(self, call: Call) -> Tensors:
        """Returns copies, for an answer may be a part of what a whole batch was answered."""
        for state in self._states:
            if problem := state.problem(call.answer[state.output.name].shape):
                raise ModelFailedError(
                    f"the sequence cannot go on: {problem}; correct state in the model's config.toml"
                )
        return {state.input.name: np.array(call.answer[state.output.name]) for state in self._states}

    def _check_rows(self, call: Call, state: Tensors) -> None:
        for port in (each.input for each in self._states):
            rows = state[port.name].shape[port.batch_axis or 0]
            if port.has_open_batch and rows != call.rows:
                raise InvalidRequestError(
                    f"inputs: have {call.rows:,} rows, the sequence was begun with {rows:,}; send as many"
                )


def _size(state: Tensors) -> int:
    return sum(array.nbytes for array in state.values())
