"""Compares the graphs of a language model with PyTorch."""

from dataclasses import dataclass

import numpy as np
import torch

from hiddenstate_exporter.language_model import LanguageModel
from hiddenstate_exporter.onnx_model import PROVIDER, FloatArray, IdArray, OnnxLanguageModel
from hiddenstate_exporter.parity import TOLERANCE, Case, Differences, ParityError, draw_tokens, grid, naming_case
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
    return Parity(tolerance=tolerance, worst=differences.worst, cases=len(cases), provider=PROVIDER)


class _LanguageModelBatch:
    """A batch of random contexts, and what PyTorch makes of each on its own."""

    def __init__(self, case: Case, model: LanguageModel, rng: np.random.Generator) -> None:
        self.tokens, self.lengths = draw_tokens(case, model.config.vocab_size, rng)
        self.valid = np.arange(case.seq_len) < self.lengths[:, None]  # [batch, seq]
        h, c = _draw_state(case, model, rng)
        self.state = _pack(h, c)
        outputs, log_probs, states = [], [], []
        for tokens, length, start_h, start_c in zip(self.tokens, self.lengths, h, c, strict=True):
            row = torch.from_numpy(tokens[None, :length])
            start = (torch.from_numpy(start_h[:, None]), torch.from_numpy(start_c[:, None]))
            with torch.inference_mode():
                outputs.append(model.rnn(model.embedding(row), start)[0][0])
                logits, state = model(row, start)
                log_probs.append(logits[0].log_softmax(dim=-1))
                states.append(_pack(*(part.numpy().swapaxes(0, 1) for part in state)))
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


def _draw_state(case: Case, model: LanguageModel, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Returns h and c, each [batch, num_layers, hidden_size]."""
    shape = (case.batch_size, model.config.num_layers, model.config.hidden_size)
    h = rng.uniform(-1, 1, shape) if case.random_state else np.zeros(shape)
    c = rng.normal(0, CELL_SCALE, shape) if case.random_state else np.zeros(shape)
    return h.astype(np.float32), c.astype(np.float32)


def _pack(h: FloatArray, c: FloatArray) -> FloatArray:
    """Packs states [batch, num_layers, hidden_size] as a bundle does: h_0, c_0, h_1, c_1, ..."""
    return np.stack([h, c], axis=2).reshape(len(h), -1)
