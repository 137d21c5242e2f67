"""Models as other people build them in plain PyTorch; nothing of the exporter is used here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WORDS = ["<pad>", "<unk>", "<s>", "</s>", *(f"w{number}" for number in range(26))]
UNK, BOS, EOS = 1, 2, 3

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class PlainLanguageModel(nn.Module):
    """The model of many tutorials."""

    def __init__(
        self, cell: str, *, embedding_size: int = 12, hidden_size: int = 10, num_layers: int = 2, bias: bool = True
    ) -> None:
        super().__init__()
        self.encoder = nn.Embedding(len(WORDS), embedding_size, padding_idx=0)
        self.rnn = CELLS[cell](embedding_size, hidden_size, num_layers, bias=bias)  # time comes first here
        self.decoder = nn.Linear(hidden_size, len(WORDS), bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the log probabilities [seq, vocab_size] of what follows each token of [seq]."""
        outputs, _ = self.rnn(self.encoder(tokens))
        log_probs: Tensor = self.decoder(outputs).log_softmax(dim=-1)
        return log_probs


class PlainEncoder(nn.Module):
    """Both directions, pooled."""

    def __init__(
        self, cell: str, *, pooling: str, bidirectional: bool = True, dimension: int | None = None, normalized: bool
    ) -> None:
        super().__init__()
        width = 10 * (1 + bidirectional)
        self.table = nn.Embedding(len(WORDS), 12)
        self.layers = CELLS[cell](12, 10, 1, batch_first=True, bidirectional=bidirectional)
        self.attend = nn.Sequential(nn.Linear(width, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False))
        self.pooling, self.normalized = pooling, normalized
        self.top = (
            nn.Identity() if dimension is None else nn.Linear(width * (3 if pooling == "attention" else 1), dimension)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the vector [dimension] of one sentence's tokens [seq]."""
        outputs, final = self.layers(self.table(tokens)[None])
        h = final[0] if isinstance(final, tuple) else final  # [directions, 1, hidden_size]
        outputs = outputs[0]  # [seq, width]
        pooled = {
            "mean": lambda: outputs.mean(dim=0),
            "max": lambda: outputs.max(dim=0).values,
            "last": lambda: h[:, 0].flatten(),
            "attention": lambda: (self.attend(outputs).softmax(dim=0).T @ outputs).flatten(),
        }[self.pooling]()
        vector: Tensor = self.top(pooled)
        return vector / vector.norm() if self.normalized else vector


def made(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives a model weights that keep its answers well apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def language_model_description(cell: str, **fields: Any) -> dict[str, Any]:
    """Returns the description of a `PlainLanguageModel`."""
    return {
        "kind": "language_model",
        "cell": cell,
        "embedding": "encoder.weight",
        "rnn": "rnn",
        "decoder": "decoder",
        "vocabulary": {"words": "words.txt", "split": "whitespace"},
        "special_words": ["<pad>"],
        "bos": "<s>",
        "eos": "</s>",
        **fields,
    }


def encoder_description(cell: str, **fields: Any) -> dict[str, Any]:
    """Returns the description of a `PlainEncoder`."""
    return {
        "kind": "sentence_encoder",
        "cell": cell,
        "embedding": "table",
        "rnn": "layers",
        "pooling": "mean",
        "vocabulary": {"words": "words.txt", "split": "whitespace"},
        **fields,
    }
