"""Compares the graphs of a language model with PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hiddenstate_exporter.graphs.stack_shape import StackShape
from hiddenstate_exporter.networks.language_model import LanguageModel
from hiddenstate_exporter.publishing.onnx_model import PROVIDER, FloatArray, IdArray, OnnxLanguageModel
from hiddenstate_exporter.publishing.parity import (
    TOLERANCE,
    Case,
    Differences,
    ParityError,
    draw_tokens,
    grid,
    naming_case,
)
from hiddenstate_server.bundle import Parity

TOP_K = 20
HEAD_ROWS = 64  # positions of one case whose log probabilities are compared
CELL_SCALE = 3.0  # standard deviation of random cell states; they are not bounded as h is


def check_language_model(
    onnx_model: OnnxLanguageModel, model: LanguageModel, token_ranks: IdArray, tolerance: float = TOLERANCE
) -> Parity:
    """Compares the graphs of a language model with PyTorch over the whole grid.

    Raises:
        ParityError: an output is off by more than `tolerance`, or ONNX Runtime cannot run a case.
    """
    rng = np.random.default_rng(0)
    differences = Differences(tolerance)
    cases = grid(random_states=True)
    for case in cases:
        batch = _LanguageModelBatch(case, model, rng)
        with naming_case(case):
            outputs, next_state = onnx_model.advance(batch.tokens, batch.lengths, batch.state)
            if outputs.shape[:2] != batch.tokens.shape:
                raise ParityError(f"outputs: has shape {list(outputs.shape)} ({case})")
            valid = outputs[batch.valid]  # [positions, output_size]
            differences.add("outputs", case, valid, batch.expected_outputs)
            differences.add("next_state", case, next_state, batch.expected_state)
            rows = rng.permutation(len(valid))[:HEAD_ROWS]
            head = _HeadRows(valid[rows], batch.expected_log_probs[rows])
            _check_head(onnx_model, head, token_ranks, case, differences, rng)
    return Parity(
        tolerance=tolerance, worst=differences.worst, mean=differences.mean, cases=len(cases), provider=PROVIDER
    )


class _LanguageModelBatch:
    """A batch of random contexts, and what PyTorch makes of each on its own."""

    def __init__(self, case: Case, model: LanguageModel, rng: np.random.Generator) -> None:
        self.tokens, self.lengths = draw_tokens(case, model.config.vocab_size, rng)
        self.valid = np.arange(case.seq_len) < self.lengths[:, None]  # [batch, seq]
        shape = model.config.shape
        start = _draw_state(case, shape, rng)
        last_output = rng.standard_normal((case.batch_size, shape.output_size)) * case.random_state  # not to be read
        self.state = _pack(start, last_output, shape)
        outputs, log_probs, states = [], [], []
        for number, (tokens, length) in enumerate(zip(self.tokens, self.lengths, strict=True)):
            with torch.inference_mode():
                row, alone = torch.from_numpy(tokens[None, :length]), slice(number, number + 1)
                rows, state = model.outputs(row, tuple(torch.from_numpy(part[:, alone]) for part in start))
                outputs.append(rows[0])
                log_probs.append(model.decoder(model.project(rows[0])).log_softmax(dim=-1))
                states.append(_pack([part.numpy() for part in state], rows[:, -1].numpy(), shape))
        self.expected_outputs: FloatArray = torch.cat(outputs).numpy()  # [positions, output_size]
        self.expected_log_probs: FloatArray = torch.cat(log_probs).numpy()  # [positions, vocab_size]
        self.expected_state: FloatArray = np.concatenate(states)  # [batch, state_size]


@dataclass(frozen=True, slots=True)
class _HeadRows:
    hidden: FloatArray  # [rows, output_size]
    expected: FloatArray  # [rows, vocab_size]


def _check_head(
    onnx_model: OnnxLanguageModel,
    rows: _HeadRows,
    token_ranks: IdArray,
    case: Case,
    differences: Differences,
    rng: np.random.Generator,
) -> None:
    vocab_size = rows.expected.shape[1]
    k = min(TOP_K, vocab_size)
    targets = rng.integers(vocab_size, size=len(rows.hidden))
    low, high = sorted(int(rank) for rank in rng.integers(token_ranks.max() + 2, size=2))
    for ranks in (None, (low, high)):
        allowed = np.ones(vocab_size, bool) if ranks is None else (token_ranks >= low) & (token_ranks < high)
        expected = np.where(allowed, rows.expected, -np.inf).astype(np.float32)
        top = onnx_model.top(rows.hidden, k, targets=targets, ranks=ranks)
        name = "" if ranks is None else " (restricted)"
        differences.add(f"top_log_probs{name}", case, top.log_probs, -np.sort(-expected, axis=1)[:, :k])
        differences.add(f"top_ids{name}", case, top.log_probs, np.take_along_axis(expected, top.ids, axis=1))
        target = np.take_along_axis(rows.expected, targets[:, None], axis=1)[:, 0]
        differences.add(f"target_log_probs{name}", case, top.target_log_probs, target)


def _draw_state(case: Case, shape: StackShape, rng: np.random.Generator) -> list[FloatArray]:
    """Returns the parts of a state, h and perhaps c, each [num_layers, batch, hidden_size]."""
    size = (shape.num_layers, case.batch_size, shape.hidden_size)
    h, c = rng.uniform(-1, 1, size), rng.normal(0, CELL_SCALE, size)
    parts = [h, c][: len(shape.state_parts)]
    return [(part if case.random_state else np.zeros(size)).astype(np.float32) for part in parts]


def _pack(parts: Sequence[FloatArray], last_output: NDArray[np.floating], shape: StackShape) -> FloatArray:
    """Packs parts [num_layers, batch, hidden_size] and the last output [batch, output_size] as a bundle does."""
    batch_size = len(last_output)
    packed = np.stack(parts, axis=1).transpose(2, 0, 1, 3).reshape(batch_size, -1)  # layer by layer: h, c
    if shape.keeps_output:
        packed = np.concatenate([packed, last_output], axis=1)
    return packed.astype(np.float32)
