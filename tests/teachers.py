"""Tiny teachers for tests of distillation."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bundles import word_tokenizer

ANIMALS = ("cat", "dog", "horse", "sheep")
FOODS = ("bread", "soup", "cake", "rice")
VERBS = ("sees", "likes", "wants", "finds")
WORDS = (*ANIMALS, *FOODS, *VERBS, "the", "a", ".")


class WordTeacher:
    """Gives a sentence the mean of fixed vectors of its words, made to length 1. Counts what it is asked."""

    name = "word teacher 1.0"
    max_seq_length = 16

    def __init__(self, dimension: int = 8, seed: int = 0) -> None:
        self.dimension = dimension
        self.checksum = hashlib.sha256(b"%d" % seed).hexdigest()
        self.tokenizer: Tokenizer = word_tokenizer(["<unk>", *WORDS])
        vocab_size = self.tokenizer.get_vocab_size()
        self._table = np.random.default_rng(seed).normal(size=(vocab_size, dimension)).astype(np.float32)
        self.asked: list[str] = []

    def embed(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        self.asked += sentences
        rows = [self._table[encoding.ids].mean(axis=0) for encoding in self.tokenizer.encode_batch(list(sentences))]
        return _unit(np.stack(rows))

    def embed_tokens(self) -> NDArray[np.float32]:
        return _unit(self._table)


def write_sentence_transformer(folder: Path, dimension: int = 16) -> Path:
    """Writes a sentence-transformers folder with a tiny BERT of random weights."""
    import torch
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its newer name is not in 3.0, which is enough here
        from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*specials, *WORDS, "##s", "##ed"]), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(specials) + len(WORDS) + 2,
        hidden_size=dimension,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=dimension,
        max_position_embeddings=40,
    )
    bert = folder / "bert"
    BertModel(config).save_pretrained(bert)
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=32)
    model = SentenceTransformer(modules=[transformer, Pooling(dimension, "mean")], device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def sentences(count: int = 200, seed: int = 0) -> list[str]:
    """Makes different sentences of the words that the teachers know."""
    rng = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        subject, verb = rng.choice(ANIMALS), rng.choice(VERBS)
        object_ = " ".join(rng.choice([*ANIMALS, *FOODS], size=rng.integers(1, 4)))
        made[f"the {subject} {verb} a {object_} ."] = None
    return list(made)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
