"""Batches, losses and the start of a distillation."""

from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoder, SentenceEncoderConfig
from hiddenstate_exporter.training.distillation import (
    SHUFFLED_BATCHES,
    Batch,
    DistillationTask,
    Examples,
    cosine_distance,
    encode,
    initial_embedding,
    make_batch,
    reduce_dimension,
    similarity_error,
    tokenize,
)
from teachers import ANIMALS, FOODS, WordTeacher, sentences

DIMENSION = 8


def unit_vectors(count: int, dimension: int = DIMENSION, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def numbered(count: int, repeats: int = 1) -> Examples:
    """Makes examples whose first token says which they are."""
    lengths = np.random.default_rng(1).integers(1, 12, size=count)
    tokens = [np.array([i, *[1] * (length - 1)], np.int32) for i, length in enumerate(lengths)]
    vectors = unit_vectors(count).astype(np.float16)
    return Examples(tokens, vectors, np.full(count, repeats, np.int64))


def task_of(train: Examples, batch_size: int = 16, relational_weight: float = 5.0) -> DistillationTask:
    config = SentenceEncoderConfig(vocab_size=5000, embedding_size=6, hidden_size=5, num_layers=1, dimension=DIMENSION)
    torch.manual_seed(0)
    model = SentenceEncoder(config)
    return DistillationTask(model, train, numbered(40), batch_size=batch_size, relational_weight=relational_weight)


def names(batch: Batch) -> list[int]:
    return [int(i) for i in batch.tokens[:, 0]]


def test_an_epoch_brings_each_sentence_as_often_as_it_repeats() -> None:
    task = task_of(numbered(300, repeats=3))
    batches = list(task.batches(0))
    assert len(batches) == task.steps_per_epoch == 57
    assert Counter(i for batch in batches for i in names(batch)) == dict.fromkeys(range(300), 3)


def test_a_batch_carries_the_vectors_and_lengths_of_its_sentences() -> None:
    examples = numbered(300)
    for batch in task_of(examples).batches(0):
        for row, i in enumerate(names(batch)):
            assert int(batch.lengths[row]) == len(examples.tokens[i])
            assert np.array_equal(batch.vectors[row].numpy(), examples.vectors[i].astype(np.float32))
            assert not batch.tokens[row, batch.lengths[row] :].any()


def test_the_same_epoch_is_the_same_and_another_is_another() -> None:
    task = task_of(numbered(300))
    first = [names(batch) for batch in task.batches(0)]
    assert [names(batch) for batch in task.batches(0)] == first
    assert [names(batch) for batch in task.batches(1)] != first


def test_sentences_of_like_length_meet() -> None:
    batches = list(task_of(numbered(16 * SHUFFLED_BATCHES * 2)).batches(0))
    padded = sum(batch.tokens.numel() for batch in batches)
    assert padded / sum(int(batch.lengths.sum()) for batch in batches) < 1.05
    lengths = [int(batch.lengths.max()) for batch in batches]
    assert lengths != sorted(lengths)


def test_the_cosine_loss_is_zero_where_the_teacher_points_whatever_the_length() -> None:
    vectors = torch.from_numpy(unit_vectors(5))
    assert cosine_distance(vectors * 3, vectors).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distance(-vectors, vectors).item() == pytest.approx(2, abs=1e-6)


def test_the_similarity_error_is_the_mean_square_over_pairs() -> None:
    students = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    teachers = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # cosines of pairs 01, 02, 12: 0, 0.707, 0.707 against 1, 0, 0
    assert similarity_error(students, teachers).item() == pytest.approx((1 + 0.5 + 0.5) / 3, abs=1e-6)


def test_a_turned_space_has_no_similarity_error() -> None:
    vectors = unit_vectors(6)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(DIMENSION, DIMENSION)))
    turned = torch.from_numpy((vectors @ turn).astype(np.float32))
    assert similarity_error(turned, torch.from_numpy(vectors)).item() < 1e-10
    assert cosine_distance(turned, torch.from_numpy(vectors)).item() > 0.1


def test_a_batch_of_one_has_a_finite_loss_and_gradient() -> None:
    task = task_of(numbered(30))
    loss, tokens = task.loss(make_batch(numbered(30), np.array([3])))
    loss.backward()  # type: ignore[no-untyped-call]
    assert tokens == len(numbered(30).tokens[3])
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.model.parameters())


def test_without_relational_weight_only_the_direction_counts() -> None:
    examples = numbered(30)
    batch = make_batch(examples, np.arange(20))
    task = task_of(examples, relational_weight=0.0)
    expected = cosine_distance(task.model(batch.tokens, batch.lengths), batch.vectors)
    assert task.loss(batch)[0].item() == pytest.approx(expected.item())
    both = task_of(examples, relational_weight=2.0)
    extra = similarity_error(both.model(batch.tokens, batch.lengths), batch.vectors)
    assert both.loss(batch)[0].item() == pytest.approx(expected.item() + 2 * extra.item())


def test_validation_weighs_every_held_out_sentence_alike() -> None:
    task, held_out = task_of(numbered(30), batch_size=16), numbered(40)  # 16 + 16 + 8
    task.model.eval()
    with torch.no_grad():
        each = [
            cosine_distance(task.model(batch.tokens, batch.lengths), batch.vectors).item()
            for batch in (make_batch(held_out, np.array([i])) for i in range(40))
        ]
        assert task.validate() == pytest.approx(np.mean(each), abs=1e-6)


def test_no_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match="no sentences"):
        task_of(numbered(0))


def test_tokens_are_cut_and_an_empty_sentence_has_one() -> None:
    tokenizer = WordTeacher().tokenizer
    cut, empty = tokenize(tokenizer, ["the cat sees a dog .", ""], 3)
    assert [tokenizer.id_to_token(int(i)) for i in cut] == ["the", "cat", "sees"]
    assert empty.tolist() == [0]


def test_encoding_keeps_the_order_of_the_sentences() -> None:
    tokenizer = WordTeacher().tokenizer
    config = SentenceEncoderConfig(
        vocab_size=tokenizer.get_vocab_size(), embedding_size=6, hidden_size=5, num_layers=1, dimension=DIMENSION
    )
    model, chosen = SentenceEncoder(config), sentences(30)
    vectors = encode(model, tokenizer, chosen, batch_size=4)
    for sentence, vector in zip(chosen, vectors, strict=True):
        assert np.abs(encode(model, tokenizer, [sentence])[0] - vector).max() < 1e-6


def test_fewer_dimensions_keep_cosines_that_need_no_more() -> None:
    basis = np.random.default_rng(5).normal(size=(3, DIMENSION))
    basis = np.linalg.qr(basis.T)[0].T  # three directions in eight
    vectors = (unit_vectors(50, 3) @ basis).astype(np.float16)
    reduced = reduce_dimension(vectors, 3, fit_on=40)
    assert reduced.shape == (50, 3)
    wide, narrow = vectors.astype(np.float32), reduced.astype(np.float32)
    assert np.abs(wide @ wide.T - narrow @ narrow.T).max() < 5e-3
    assert reduce_dimension(vectors, DIMENSION, fit_on=40) is vectors


def test_words_start_near_those_the_teacher_holds_alike() -> None:
    rng = np.random.default_rng(0)
    animal, food = rng.normal(size=(2, 12))
    centres = [animal] * len(ANIMALS) + [food] * len(FOODS)
    vectors = np.stack([centre + rng.normal(scale=0.1, size=12) for centre in centres]).astype(np.float32)
    for size in (4, 20):  # fewer and more than the teacher's 12
        table = initial_embedding(vectors, size)
        assert table.shape == (8, size)
        assert table.dtype == torch.float32
        assert table.std().item() == pytest.approx(0.5, rel=0.1)
        distances = torch.cdist(table[:, :4], table[:, :4])
        assert distances[:4, :4].max() < distances[:4, 4:].min()
