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
from hiddenstate_exporter.training.fused_cross_entropy import fused_cross_entropy
from hiddenstate_exporter.training.run_config import BatchConfig
from hiddenstate_exporter.training.sampled_softmax import SampledSoftmax

MAX_SCORE_ROWS = 32  # parts that a held-out text is read as, side by side
MIN_SCORE_TOKENS = 256  # of each part: its first words are predicted without a past
NO_TOKEN = -100  # no id, as in PyTorch's cross_entropy

# Of windows of variable length: Merity, Keskar & Socher (2017), section 5.
HALF_SHARE = 0.05  # of the windows are about half as long
DEVIATION = 5.0  # tokens
SHORTEST = 5  # tokens


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
    """A `task.Task`; `train` and `valid` are token streams, int64 [tokens]. It trains on the model's device.

    Raises:
        ValueError: the text is shorter than one window of the batch.
    """

    metric = "perplexity"

    def __init__(
        self, model: LanguageModel, train: Tensor, valid: Tensor, *, batches: BatchConfig, seed: int = 0
    ) -> None:
        self.model = model
        self._train, self._valid = train, valid
        self._config, self._seed = batches, seed
        self._device = model.embedding.weight.device
        bptt = batches.bptt
        self.steps_per_epoch = (len(train) - bptt) // batches.batch_size // bptt
        if self.steps_per_epoch < 1:
            needed = batches.batch_size * bptt + bptt
            raise ValueError(
                f"{len(train)} tokens of training text, {needed} or more are needed for one batch: "
                "give more text, or a smaller batches.batch_size or batches.bptt"
            )
        self.tokens_per_step = batches.batch_size * bptt
        counts = torch.bincount(train, minlength=model.config.vocab_size)
        self._sampled = self._make_sampled(counts)
        self._features_of = model.features_and_outputs
        self._state: State | None = None

    def compile(self) -> None:
        """Lets torch.compile make kernels of the network."""
        self._features_of = torch.compile(self.model.features_and_outputs)

    def batches(self, epoch: int) -> Iterator[Window]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        batch_size, bptt = self._config.batch_size, self._config.bptt
        offset = int(torch.randint(bptt, (), generator=generator))  # windows are cut elsewhere in each epoch
        length = self.steps_per_epoch * bptt
        used = self._train[offset : offset + batch_size * length + 1]
        inputs = used[:-1].view(batch_size, length).to(self._device)
        targets = used[1:].view(batch_size, length).to(self._device)
        start = 0
        for seq_len in self._lengths(length, generator):
            window = slice(start, start + seq_len)
            yield Window(inputs[:, window], targets[:, window], first=start == 0)
            start += seq_len

    def lr_scale(self, batch: Window) -> float:
        """A short window makes a small step, so that each token counts the same: Merity et al. (2017)."""
        return batch.inputs.shape[1] / self._config.bptt if self._config.variable_bptt else 1.0

    def loss(self, batch: Window) -> tuple[Tensor, int]:
        state = None if batch.first or self._state is None else self._forget_some(self._state)
        features, outputs, state = self._features_of(batch.inputs, state)
        self._state = tuple(part.detach() for part in state)
        rows, targets = features.flatten(0, 1), batch.targets.flatten()  # [batch * seq, features_size], [batch * seq]
        return self._cross_entropy(rows, targets) + self._penalty(features, outputs), len(targets)

    def _lengths(self, total: int, generator: torch.Generator) -> list[int]:
        """Returns how long each window of an epoch is: `steps_per_epoch` numbers that add up to `total`."""
        bptt, steps = self._config.bptt, self.steps_per_epoch
        if not self._config.variable_bptt:
            return [bptt] * steps
        half = torch.rand(steps, generator=generator) < HALF_SHARE
        drawn = torch.where(half, bptt / 2, float(bptt)) + DEVIATION * torch.randn(steps, generator=generator)
        ends = drawn.clamp(min=min(SHORTEST, bptt)).double().cumsum(0)
        ends = (ends * (total / ends[-1])).round().long()  # [steps]
        return torch.diff(ends, prepend=torch.zeros(1, dtype=torch.long)).tolist()

    def _make_sampled(self, counts: Tensor) -> SampledSoftmax | None:
        if not self._config.sampled_softmax:
            return None
        if self.model.config.head == "adaptive_softmax":
            raise ValueError("sampled_softmax: an adaptive softmax is fast already, train it without")
        return SampledSoftmax(counts, self._config.sampled_softmax).to(self._device)

    def _cross_entropy(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of features [rows, features_size] with targets int64 [rows]."""
        decoder = self.model.decoder
        if isinstance(decoder, AdaptiveSoftmax):
            with torch.autocast(rows.device.type, enabled=False):  # PyTorch's adds up rows of one type
                return decoder.loss(rows.float(), targets)
        if self._sampled is not None:
            sampled: Tensor = self._sampled(rows, targets, decoder)
            return sampled
        if rows.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            return fused_cross_entropy(rows, targets, decoder)
        return F.cross_entropy(decoder(rows).float(), targets)

    def _penalty(self, features: Tensor, outputs: Tensor) -> Tensor:
        """Returns what large and fast changing activations cost: Merity, McCann & Socher (2017).

        Features are as the decoder reads them, with dropout; outputs [batch, seq, output_size] are without.
        """
        config, penalty = self.model.regularization, features.new_zeros(())
        if config.activation:
            penalty = penalty + config.activation * features.float().square().mean()
        if config.temporal_activation and outputs.shape[1] > 1:
            penalty = penalty + config.temporal_activation * outputs.float().diff(dim=1).square().mean()
        return penalty

    def _forget_some(self, state: State) -> State:
        if not self._config.fresh_start:
            return state
        kept = torch.rand(state[0].shape[1], device=state[0].device) >= self._config.fresh_start
        return tuple(part * kept[None, :, None] for part in state)

    def validate(self) -> float:
        return score(self.model, self._valid, special_ids=()).perplexity

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._state, "windows": self._windows()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, now in self._windows().items():
            then = state["windows"][name]
            if then != now:
                raise ValueError(f"the run to resume has {name} {then}, not {now}; resume with the same")
        carried = state["state"]
        self._state = None if carried is None else tuple(part.to(self._device) for part in carried)

    def _windows(self) -> dict[str, int]:
        """What decides which tokens are in which window: it may not change within a run."""
        config = self._config
        return {
            "batch_size": config.batch_size,
            "bptt": config.bptt,
            "variable_bptt": config.variable_bptt,
            "seed": self._seed,
            "tokens": len(self._train),
        }


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
    device = model.embedding.weight.device
    inputs, targets = (stream[i : i + rows * length].view(rows, length).to(device) for i in (0, 1))
    loss, hits, words, unknown = 0.0, torch.zeros(3), 0, 0
    state: State | None = None
    for start in range(0, length, seq_len):
        wanted = targets[:, start : start + seq_len]  # [rows, seq]
        logits, state = model(inputs[:, start : start + seq_len], state)  # [rows, seq, vocab_size]
        logits, wanted = logits.float().flatten(0, 1), wanted.flatten()  # [rows * seq, vocab_size], [rows * seq]
        loss += F.cross_entropy(logits, wanted, reduction="sum", ignore_index=mark_id).item()
        if special_ids:
            logits[:, list(special_ids)] = -math.inf
            is_word = ~torch.isin(wanted, torch.tensor([i for i in special_ids if i != unk_id], device=device))
            hits += (logits.topk(3).indices == wanted[:, None])[is_word].sum(0).cumsum(0).cpu()
            words += int(is_word.sum())
            unknown += int((wanted == unk_id).sum()) if unk_id is not None else 0
    total = max(int((targets != mark_id).sum()), 1)
    return Scores(
        perplexity=math.exp(min(loss / total, 700.0)),
        top1_accuracy=hits[0].item() / max(words, 1),
        top3_accuracy=hits[2].item() / max(words, 1),
        unk_rate=unknown / total,
    )
