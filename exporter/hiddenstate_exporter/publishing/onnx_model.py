"""Runs the graphs of a bundle with ONNX Runtime, for checks and measurements."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

PROVIDER = "CPUExecutionProvider"

FloatArray = NDArray[np.float32]
IdArray = NDArray[np.int64]
LengthArray = NDArray[np.int32]


class OnnxModelError(ValueError):
    """ONNX Runtime cannot load or run a graph."""


@dataclass(frozen=True, slots=True)
class Top:
    """What the head answers."""

    log_probs: FloatArray  # [rows, k]
    ids: IdArray  # [rows, k]
    target_log_probs: FloatArray  # [rows]


class OnnxLanguageModel:
    """The two graphs of a language model in `folder`; `graphs` names their files."""

    def __init__(self, folder: Path, graphs: Mapping[str, str], *, threads: int = 0) -> None:
        """Loads them; `threads` are those that a product uses, 0 for as many as ONNX Runtime likes."""
        self._recurrent = open_session(folder / graphs["recurrent"], threads=threads)
        self._head = open_session(folder / graphs["head"], threads=threads)
        self.state_size: int = next(i.shape[1] for i in self._recurrent.get_inputs() if i.name == "state")

    def advance(self, tokens: IdArray, lengths: LengthArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Runs tokens [batch, seq] through the layers: outputs [batch, seq, output_size] and the next state."""
        inputs: dict[str, NDArray[Any]] = {"tokens": tokens, "lengths": lengths, "state": state}
        outputs, next_state = _run(self._recurrent, ["outputs", "next_state"], inputs)
        return outputs, next_state

    def top(
        self, hidden: FloatArray, k: int, *, targets: IdArray | None = None, ranks: tuple[int, int] | None = None
    ) -> Top:
        """Picks the k likeliest tokens after each row of `hidden` [rows, output_size].

        With `ranks`, only words of rank low..high-1 are candidates.
        """
        rows = len(hidden)
        low, high = ranks or (0, 0)
        inputs: dict[str, NDArray[Any]] = {
            "hidden": hidden,
            "k": np.array([k], np.int64),
            "targets": np.zeros(rows, np.int64) if targets is None else targets,
            "restrict": np.array(ranks is not None),
            "rank_low": np.full(rows, low, np.int64),
            "rank_high": np.full(rows, high, np.int64),
        }
        return Top(*_run(self._head, ["top_log_probs", "top_ids", "target_log_probs"], inputs))


class OnnxSentenceEncoder:
    """The graph of a sentence encoder in `folder`; `graphs` names its file."""

    def __init__(self, folder: Path, graphs: Mapping[str, str]) -> None:
        self._encoder = open_session(folder / graphs["encoder"])

    def embed(self, tokens: IdArray, lengths: LengthArray) -> FloatArray:
        """Returns the vectors [batch, dimension] of tokens [batch, seq]."""
        embeddings: FloatArray = _run(self._encoder, ["embeddings"], {"tokens": tokens, "lengths": lengths})[0]
        return embeddings


def open_session(path: Path, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """Loads a graph.

    Raises:
        OnnxModelError: ONNX Runtime refuses it.
    """
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised as well
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[PROVIDER])
    except Exception as error:  # ONNX Runtime's own classes share no base but Exception
        raise OnnxModelError(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from error


def _run(session: onnxruntime.InferenceSession, outputs: list[str], inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    try:
        results: list[Any] = session.run(outputs, dict(inputs))
    except Exception as error:
        raise OnnxModelError(f"ONNX Runtime cannot run the graph: {_first_line(error)}") from error
    return results


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
