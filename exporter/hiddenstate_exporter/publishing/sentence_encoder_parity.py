"""Compares the graph of a sentence encoder with PyTorch."""

import numpy as np
import torch

from hiddenstate_exporter.networks.sentence_encoder import SentenceEncoder
from hiddenstate_exporter.publishing.onnx_model import PROVIDER, FloatArray, IdArray, LengthArray, OnnxSentenceEncoder
from hiddenstate_exporter.publishing.parity import TOLERANCE, Differences, draw_tokens, grid, naming_case
from hiddenstate_server.bundle import Parity


def check_sentence_encoder(
    onnx_model: OnnxSentenceEncoder, model: SentenceEncoder, tolerance: float = TOLERANCE
) -> Parity:
    """Compares the graph of a sentence encoder with PyTorch over the whole grid.

    Raises:
        ParityError: an embedding is off by more than `tolerance`, or ONNX Runtime cannot run a case.
    """
    rng = np.random.default_rng(0)
    differences = Differences(tolerance)
    cases = grid(random_states=False)
    for case in cases:
        tokens, lengths = draw_tokens(case, model.config.vocab_size, rng)
        with naming_case(case):
            embeddings = onnx_model.embed(tokens, lengths)
        differences.add("embeddings", case, embeddings, _reference_embeddings(model, tokens, lengths))
    return Parity(
        tolerance=tolerance, worst=differences.worst, mean=differences.mean, cases=len(cases), provider=PROVIDER
    )


def _reference_embeddings(model: SentenceEncoder, tokens: IdArray, lengths: LengthArray) -> FloatArray:
    with torch.inference_mode():
        rows = [
            model(torch.from_numpy(row[None, :length]), torch.tensor([int(length)]))
            for row, length in zip(tokens, lengths, strict=True)
        ]
    embeddings: FloatArray = torch.cat(rows).numpy()
    return embeddings
