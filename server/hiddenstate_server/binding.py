"""Graphs bound to memory (ONNX Runtime's IO binding): what need not move stays where it is.

In steps of one token, what a language model's recurrent graph puts out goes into its head without leaving the
device, and what is the same from one batch to the next is handed over once. On a GPU that spares ways between its
memory and the host's; on a CPU it costs nothing and gains nothing (benchmarks/binding.py). States cross in every
iteration: they are values, which may be kept, streamed or returned after each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hiddenstate_server.head_output import HeadOutput

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Array = NDArray[Any]

_HEAD_OUTPUTS = ("top_log_probs", "top_ids", "target_log_probs")


class BoundGraph:
    """A graph with arrays bound to it. Belongs to one thread."""

    __slots__ = ("_arrays", "_binding", "_session")

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._arrays: dict[str, Array] = {}  # bound inputs

    def feed(self, name: str, array: Array) -> None:
        """Binds an input to an array on the host, which must not change: one that is bound already stays as it is."""
        if self._arrays.get(name) is not array:
            self._binding.bind_cpu_input(name, array)
            self._arrays[name] = array

    def feed_from(self, name: str, value: Any, shape: Sequence[int]) -> None:
        """Binds an input to float32 values where they lie, which must stay there until the graph has run."""
        self._arrays.pop(name, None)
        self._binding.bind_input(name, value.device_name(), 0, np.float32, shape, value.data_ptr())

    def put_into(self, name: str, array: Floats) -> None:
        """Binds an output to an array on the host, which holds it after each run."""
        self._binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def leave(self, name: str, device: str) -> None:
        """Lets an output lie on a device, cpu or cuda. To be called anew whenever its shape changes."""
        self._binding.bind_output(name, device)

    def run(self) -> None:
        """Runs the graph."""
        self._session.run_with_iobinding(self._binding)

    def value(self, number: int) -> Any:
        """Returns an output of the last run where it lies; outputs are numbered as they were first bound."""
        return self._binding.get_outputs()[number]

    def arrays(self) -> list[Array]:
        """Returns copies of the outputs of the last run."""
        copies: list[Array] = self._binding.copy_outputs_to_cpu()
        return copies


class Outputs:
    """Outputs of a recurrent graph [batch, seq, output_size], where it left them until it runs again."""

    __slots__ = ("_array", "shape", "value")

    def __init__(self, value: Any) -> None:
        self.shape: Sequence[int] = value.shape()
        self.value = value
        self._array: Floats | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def array(self) -> Floats:
        """Returns them on the host: from a GPU a copy, on a CPU the very memory that the next run writes to."""
        if self._array is None:
            self._array = self.value.numpy()
        return self._array

    def last(self) -> "Outputs | Floats":
        """Returns the outputs of each row's last token [batch, output_size], where they lie if it is the only one."""
        return self if self.shape[1] == 1 else self.array()[:, -1]


class BoundLanguageModel:
    """The two graphs of a language model, bound to memory of one thread."""

    __slots__ = (
        "_asked",
        "_device",
        "_head",
        "_lengths",
        "_next_state",
        "_put",
        "_recurrent",
        "_restricts",
        "_state_size",
        "_zeros",
    )

    def __init__(
        self,
        recurrent: onnxruntime.InferenceSession,
        head: onnxruntime.InferenceSession,
        device: str,
        *,
        state_size: int,
    ) -> None:
        """`device` is where the graphs run, as ONNX Runtime calls it: cpu or cuda. States are [state_size]."""
        self._recurrent = BoundGraph(recurrent)
        self._head = BoundGraph(head)
        self._device = device
        self._state_size = state_size
        self._put = (0, 0)  # batch and seq of the recurrent graph's last run
        self._asked = (0, 0)  # rows and k of the head's
        self._next_state: Floats = np.empty((0, state_size), dtype=np.float32)  # for the largest batch so far
        self._lengths = np.empty(0, dtype=np.int32)  # [batch], all seq
        self._zeros: Ids = np.empty(0, dtype=np.int64)  # [rows]
        self._restricts = np.array(False), np.array(True)

    def recur(self, tokens: Ids, state: Floats) -> tuple[Outputs, Floats]:
        """Consumes tokens [batch, seq] from states [batch, state_size].

        Returns outputs [batch, seq, output_size] and the next states [batch, state_size], good until the next call.
        """
        batch_size, seq_len = tokens.shape
        graph = self._recurrent
        if self._put != tokens.shape:
            self._put = 0, 0  # in case that what follows fails
            if len(self._next_state) < batch_size:
                self._next_state = np.empty((batch_size, self._state_size), dtype=np.float32)
            self._lengths = np.full(batch_size, seq_len, dtype=np.int32)
            graph.leave("outputs", self._device)
            graph.put_into("next_state", self._next_state[:batch_size])
            self._put = batch_size, seq_len
        graph.feed("tokens", tokens)
        graph.feed("lengths", self._lengths)
        graph.feed("state", state)
        graph.run()
        return Outputs(graph.value(0)), self._next_state[:batch_size]

    def head(self, hidden: Outputs | Floats, *, k: int, targets: Ids | None, ranks: Ids | None) -> HeadOutput:
        """Answers the k best of each row and the log probability of its target; see `LanguageModelRunner.head`."""
        rows, graph = len(hidden), self._head
        if self._asked != (rows, k):
            self._asked = 0, 0
            for name in _HEAD_OUTPUTS:
                graph.leave(name, "cpu")
            graph.feed("k", np.array([k], dtype=np.int64))
            self._zeros = np.zeros(rows, dtype=np.int64)
            self._asked = rows, k
        if isinstance(hidden, Outputs):
            assert hidden.shape[1] == 1  # else its rows are not those of the last tokens
            graph.feed_from("hidden", hidden.value, (rows, hidden.shape[2]))
        else:
            graph.feed("hidden", np.ascontiguousarray(hidden))
        graph.feed("targets", self._zeros if targets is None else targets)
        graph.feed("restrict", self._restricts[ranks is not None])
        graph.feed("rank_low", self._zeros if ranks is None else np.ascontiguousarray(ranks[:, 0]))
        graph.feed("rank_high", self._zeros if ranks is None else np.ascontiguousarray(ranks[:, 1]))
        graph.run()
        return HeadOutput(*graph.arrays())
