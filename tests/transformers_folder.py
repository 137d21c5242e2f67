"""Sentence-transformers folders with tiny BERTs whose random weights make every part of the network matter."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachers import WORDS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

HIDDEN_SIZE = 24
MAX_SEQ_LENGTH = 32
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = (*SPECIALS, *WORDS, "##s", "##ed", "caf", "##\u00e9", "Cat", "\u4f60")


def write_transformer(
    folder: Path,
    *,
    pooling: str = "mean",
    dense: Sequence[tuple[int, str, bool]] = (),  # width, activation, bias
    normalized: bool = True,
    hidden_act: str = "gelu",
    num_layers: int = 2,
    license: str | None = "mit",
) -> Path:
    """Writes a model to `folder` as sentence-transformers saves it."""
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY) + 3,  # more rows than tokens, as where tables are padded to a round size
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=num_layers,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=48,
        hidden_act=hidden_act,
    )
    bert = folder / "bert"
    BertModel(config).save_pretrained(bert)
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(bert)
    modules: list[torch.nn.Module] = [
        models.Transformer(str(bert), max_seq_length=MAX_SEQ_LENGTH),
        models.Pooling(HIDDEN_SIZE, pooling),
    ]
    width = HIDDEN_SIZE
    for out_features, activation, bias in dense:
        modules.append(
            models.Dense(width, out_features, bias=bias, activation_function=getattr(torch.nn, activation)())
        )
        width = out_features
    model = SentenceTransformer(modules=[*modules, *([models.Normalize()] if normalized else [])], device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    target = folder / "model"
    model.save(str(target))
    front_matter = f"---\nlicense: {license}\n---\n" if license else ""
    (target / "README.md").write_text(f"{front_matter}# Tiny\n", encoding="utf-8")
    return target


def load(folder: Path) -> "SentenceTransformer":
    """Loads the model with sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def change_settings(path: Path, changes: Mapping[str, Any]) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the tensors in `model.safetensors`."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
