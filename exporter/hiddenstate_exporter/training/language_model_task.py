"""Trains a language model on one long stream of tokens, its state carried from window to window."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hiddenstate_exporter.networks.adaptive_softmax import AdaptiveSoftmax
from hiddenstate_exporter.networks.language_model import LanguageModel
from hiddenstate_exporter.networks.stack import State
from hiddenstate_exporter.training.sampled_softmax import SampledSoftmax

MAX_SCORE_ROWS = 32  # parts that a held-out text is read as, side by side
MIN_SCORE_TOKENS = 256  # of each part: its first words are predicted without a past
NO_TOKEN = -100  # no id, as in PyTorch's cross_entropy
FRESH_START = 0.05  # of the rows of a window begin without a past, as a context does when it is served


@dataclass(frozen=True, slots=True)
class Window:
    """`seq` tokens of each of `batch` streams, and the token after each of them; int64 [batch, seq]."""

    inputs: Tensor
    targets: Tensor
    first: bool  # of the epoch: no state to take over


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How well held-out text is predicted. Accuracies are over words: paragraph ends are left out, unknown words count
    as missed, and neither special token is ever a guess."""

    perplexity: float  # over all tokens
    top1_accuracy: float
    top3_accuracy: float
    unk_rate: float  # share of tokens that are out of the vocabulary


class LanguageModelTask:
    """A `training.Task`; `train` and `valid` are token streams, int64 [tokens].

    Raises:
        ValueError: the text is shorter than one window of the batch.
    """

    metric = "perplexity"

    def __init__(
        self,
        model: LanguageModel,
        train: Tensor,
        valid: Tensor,
        *,
        batch_size: int,
        bptt: int,
        sampled_softmax: int = 0,
        seed: int = 0,
    ) -> None:
        self.model = model
        self._train, self._valid = train, valid
        self._batch_size, self._bptt, self._seed = batch_size, bptt, seed
        self.steps_per_epoch = (len(train) - bptt) // batch_size // bptt
        if self.steps_per_epoch < 1:
            needed = batch_size * bptt + bptt
            raise ValueError(f"{len(train)} tokens of training text, {needed} or more are needed for one batch")
        if sampled_softmax and model.config.head == "adaptive_softmax":
            raise ValueError("sampled_softmax: an adaptive softmax is fast already, train it without")
        counts = torch.bincount(train, minlength=model.config.vocab_size)
        self._sampled = SampledSoftmax(counts, sampled_softmax) if sampled_softmax else None
        self._state: State | None = None

    def batches(self, epoch: int) -> Iterator[Window]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        offset = int(torch.randint(self._bptt, (), generator=generator))  # windows are cut elsewhere in each epoch
        length = self.steps_per_epoch * self._bptt
        used = self._train[offset : offset + self._batch_size * length + 1]
        inputs = used[:-1].view(self._batch_size, length)
        targets = used[1:].view(self._batch_size, length)
        for start in range(0, length, self._bptt):
            window = slice(start, start + self._bptt)
            yield Window(inputs[:, window], targets[:, window], first=start == 0)

    def loss(self, batch: Window) -> tuple[Tensor, int]:
        state = None if batch.first or self._state is None else _forget_some(self._state)
        features, state = self.model.features(batch.inputs, state)
        self._state = tuple(part.detach() for part in state)
        rows, targets = features.flatten(0, 1), batch.targets.flatten()  # [batch * seq, embedding_size], [batch * seq]
        return self._cross_entropy(rows, targets), len(targets)

    def _cross_entropy(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of features [rows, features_size] with targets int64 [rows]."""
        decoder = self.model.decoder
        if isinstance(decoder, AdaptiveSoftmax):
            with torch.autocast(rows.device.type, enabled=False):  # PyTorch's adds up rows of one type
                return decoder.loss(rows.float(), targets)
        if self._sampled is not None:
            sampled: Tensor = self._sampled(rows, targets, decoder)
            return sampled
        return F.cross_entropy(decoder(rows).float(), targets)

    def validate(self) -> float:
        return score(self.model, self._valid, special_ids=()).perplexity

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._state, "windows": self._windows()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, now in self._windows().items():
            then = state["windows"][name]
            if then != now:
                raise ValueError(f"the run to resume has {name} {then}, not {now}; resume with the same")
        self._state = state["state"]

    def _windows(self) -> dict[str, int]:
        """What decides which tokens are in which window: it may not change within a run."""
        return {"batch_size": self._batch_size, "bptt": self._bptt, "seed": self._seed, "tokens": len(self._train)}


@torch.no_grad()
def score(
    model: LanguageModel,
    stream: Tensor,
    *,
    special_ids: tuple[int, ...],
    unk_id: int | None = None,
    mark_id: int = NO_TOKEN,
    rows: int | None = None,
    seq_len: int = 64,
) -> Scores:
    """Measures a model (in eval mode) on a token stream, int64 [tokens], with the full softmax.

    The stream is read as `rows` equal parts side by side (by default as many as make sense), each from an empty state;
    up to `rows` tokens at the end are left out. `special_ids` are never guessed and, except `unk_id`, never count as
    words. `mark_id`, which stands before each text if it is not what ends one, need not be predicted.

    Raises:
        ValueError: the stream has no token to predict.
    """
    rows = rows or max(1, min(MAX_SCORE_ROWS, len(stream) // MIN_SCORE_TOKENS))
    if len(stream) <= rows:
        raise ValueError("nothing to measure on: the text has no token")
    length = (len(stream) - 1) // rows
    inputs, targets = (stream[i : i + rows * length].view(rows, length) for i in (0, 1))
    loss, hits, words, unknown = 0.0, torch.zeros(3), 0, 0
    state: State | None = None
    for start in range(0, length, seq_len):
        wanted = targets[:, start : start + seq_len]  # [rows, seq]
        logits, state = model(inputs[:, start : start + seq_len], state)  # [rows, seq, vocab_size]
        logits, wanted = logits.float().flatten(0, 1), wanted.flatten()  # [rows * seq, vocab_size], [rows * seq]
        loss += F.cross_entropy(logits, wanted, reduction="sum", ignore_index=mark_id).item()
        if special_ids:
            logits[:, list(special_ids)] = -math.inf
            is_word = ~torch.isin(wanted, torch.tensor([i for i in special_ids if i != unk_id]))
            hits += (logits.topk(3).indices == wanted[:, None])[is_word].sum(0).cumsum(0)
            words += int(is_word.sum())
            unknown += int((wanted == unk_id).sum()) if unk_id is not None else 0
    total = max(int((targets != mark_id).sum()), 1)
    return Scores(
        perplexity=math.exp(min(loss / total, 700.0)),
        top1_accuracy=hits[0].item() / max(words, 1),
        top3_accuracy=hits[2].item() / max(words, 1),
        unk_rate=unknown / total,
    )


def _forget_some(state: State) -> State:
    kept = (torch.rand(state[0].shape[1], device=state[0].device) >= FRESH_START)[None, :, None]  # [1, batch, 1]
    return tuple(part * kept for part in state)
