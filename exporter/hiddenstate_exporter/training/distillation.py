"""Distils a teacher into a sentence encoder: the student learns to give the teacher's vectors.

The loss has two parts. One asks each vector to point where the teacher's points. The other asks the similarities
within a batch to be the teacher's, since it is similarities that people use (Park et al., "Relational Knowledge
Distillation", CVPR 2019).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoder

EMBEDDING_SCALE = 0.5  # standard deviation of a freshly made embedding table
SHUFFLED_BATCHES = 64  # that are sorted by length together: like lengths meet, but not the same sentences each epoch


@dataclass(frozen=True, slots=True)
class Examples:
    """Sentences as tokens, the vectors their teacher gives them, and how often each comes in an epoch."""

    tokens: Sequence[NDArray[np.int32]]
    vectors: NDArray[np.float16]  # [sentences, dimension]
    repeats: NDArray[np.int64]  # [sentences]


@dataclass(frozen=True, slots=True)
class Batch:
    """Sentences of like length with their teacher's vectors."""

    tokens: Tensor  # int64 [batch, seq]
    lengths: Tensor  # int64 [batch]
    vectors: Tensor  # float32 [batch, dimension]


class DistillationTask:
    """A `task.Task`. Validation is 1 - cosine to the teacher on sentences held out.

    Raises:
        ValueError: there are no examples.
    """

    metric = "cosine_distance"

    def __init__(
        self,
        model: SentenceEncoder,
        train: Examples,
        held_out: Examples,
        *,
        batch_size: int = 128,
        relational_weight: float = 5.0,
        seed: int = 0,
    ) -> None:
        if not len(train.tokens) or not len(held_out.tokens):
            raise ValueError("there are no sentences to train on, or none held out")
        self.model = model
        self._train, self._held_out = train, held_out
        self._batch_size, self._relational_weight, self._seed = batch_size, relational_weight, seed
        self.steps_per_epoch = -(-int(train.repeats.sum()) // batch_size)
        mean_length = float(np.average([len(tokens) for tokens in train.tokens], weights=train.repeats))
        self.tokens_per_step = batch_size * mean_length
        self._device = model.embedding.weight.device

    def batches(self, epoch: int) -> Iterator[Batch]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(np.repeat(np.arange(len(self._train.tokens)), self._train.repeats))
        pool = SHUFFLED_BATCHES * self._batch_size
        for start in range(0, len(order), pool):
            batches = _by_length(self._train, order[start : start + pool], self._batch_size)
            for i in rng.permutation(len(batches)):
                yield make_batch(self._train, batches[i])

    def lr_scale(self, batch: Batch) -> float:
        return 1.0

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        vectors = self.model(batch.tokens.to(self._device), batch.lengths).float()  # [batch, dimension]
        targets = batch.vectors.to(self._device)
        loss = cosine_distance(vectors, targets)
        if self._relational_weight:
            loss = loss + self._relational_weight * similarity_error(vectors, targets)
        return loss, int(batch.lengths.sum())

    def validate(self) -> float:
        every = np.arange(len(self._held_out.tokens))
        total = 0.0
        for rows in _by_length(self._held_out, every, self._batch_size):
            batch = make_batch(self._held_out, rows)
            vectors = self.model(batch.tokens.to(self._device), batch.lengths)
            total += cosine_distance(vectors, batch.vectors.to(self._device)).item() * len(rows)
        return total / len(every)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def cosine_distance(vectors: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean of 1 - cosine over two sets of vectors [batch, dimension]."""
    return 1 - functional.cosine_similarity(vectors, targets).mean()


def similarity_error(vectors: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean squared difference of all cosines within a batch: student's against teacher's."""
    return functional.mse_loss(_cosines(vectors), _cosines(targets)) * _off_diagonal_share(len(vectors))


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str], max_seq_length: int) -> list[NDArray[np.int32]]:
    """Returns the token ids of each sentence, cut to `max_seq_length`, as a server would feed them.

    A sentence without a token gets one, id 0, so that it has a length.
    """
    encodings = tokenizer.encode_batch_fast(list(sentences))
    return [np.array(encoding.ids[:max_seq_length] or [0], np.int32) for encoding in encodings]


def encode(
    model: SentenceEncoder, tokenizer: Tokenizer, sentences: Sequence[str], batch_size: int = 128
) -> NDArray[np.float32]:
    """Returns the student's vectors [sentences, dimension]; leaves the model in eval mode."""
    model.eval()
    device = model.embedding.weight.device
    tokens = tokenize(tokenizer, sentences, model.config.max_seq_length)
    vectors = np.empty((len(tokens), model.config.dimension), np.float32)
    no_targets = np.zeros((len(tokens), 0), np.float16)
    examples = Examples(tokens, no_targets, np.ones(len(tokens), np.int64))
    with torch.inference_mode():
        for rows in _by_length(examples, np.arange(len(tokens)), batch_size):
            batch = make_batch(examples, rows)
            vectors[rows] = model(batch.tokens.to(device), batch.lengths).cpu().numpy()
    return vectors


def reduce_dimension(vectors: NDArray[np.float16], dimension: int, fit_on: int) -> NDArray[np.float16]:
    """Turns vectors [n, d] into vectors of length 1 [n, dimension] whose cosines stay as near as can be.

    The directions are the principal ones of the first `fit_on` vectors, without centring: cosines have an origin.
    """
    if dimension == vectors.shape[1]:
        return vectors
    basis = _principal_directions(vectors[:fit_on].astype(np.float32), dimension)  # [d, dimension]
    reduced = vectors.astype(np.float32) @ basis
    reduced /= np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)
    return reduced.astype(np.float16)


def initial_embedding(token_vectors: NDArray[np.float32], embedding_size: int, seed: int = 0) -> Tensor:
    """Makes an embedding table [vocab, embedding_size] of what the teacher makes of each token [vocab, dimension].

    Words of like meaning start as neighbours, so rare ones are known although they are hardly trained.
    """
    centred = token_vectors - token_vectors.mean(axis=0)
    size = min(embedding_size, centred.shape[1])
    table = centred @ _principal_directions(centred, size)
    extra = np.random.default_rng(seed).normal(0, table.std(), (len(table), embedding_size - size))
    table = np.concatenate([table, extra], axis=1)
    return torch.from_numpy((table * (EMBEDDING_SCALE / table.std())).astype(np.float32))


def make_batch(examples: Examples, rows: NDArray[np.int64]) -> Batch:
    """Puts the examples of these rows into one batch, padded with id 0."""
    chosen = [examples.tokens[row] for row in rows]
    lengths = np.array([len(tokens) for tokens in chosen], np.int64)
    padded = np.zeros((len(chosen), lengths.max()), np.int64)
    for line, tokens in zip(padded, chosen, strict=True):
        line[: len(tokens)] = tokens
    vectors = torch.from_numpy(examples.vectors[rows].astype(np.float32))
    return Batch(torch.from_numpy(padded), torch.from_numpy(lengths), vectors)


def _by_length(examples: Examples, rows: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    lengths = np.array([len(examples.tokens[row]) for row in rows])
    ordered = rows[np.argsort(lengths, kind="stable")]
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def _cosines(vectors: Tensor) -> Tensor:
    unit = functional.normalize(vectors, dim=-1)
    return unit @ unit.T  # [batch, batch]


def _off_diagonal_share(size: int) -> float:
    """Makes a mean over all pairs one over pairs of two different sentences (the others have no error)."""
    return size / max(size - 1, 1)


def _principal_directions(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Returns the `count` strongest directions [dimension, count] of vectors [n, dimension]."""
    _, directions = np.linalg.eigh(vectors.T @ vectors)  # weakest first
    return cast(NDArray[np.float32], directions[:, ::-1][:, :count])
