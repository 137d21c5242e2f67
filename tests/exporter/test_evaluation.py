from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from bundles import sentence_encoder_bundle
from checkpoints import VOCABULARY, language_model_checkpoint
from hiddenstate_exporter.graphs.graph import write_language_model_graphs
from hiddenstate_exporter.publishing.checkpoint_model import language_model_of, round_model, weights_of
from hiddenstate_exporter.publishing.evaluation import encode_sentences, mark_id, score_language_model
from hiddenstate_exporter.publishing.onnx_model import (
    OnnxLanguageModel,
    OnnxModelError,
    OnnxSentenceEncoder,
    open_session,
)
from hiddenstate_exporter.training.language_model_task import score
from hiddenstate_exporter.training.vocabulary import load_tokenizer
from hiddenstate_server.bundle import LanguageModelSpec
from hiddenstate_server.tokenizer import word_ranks

SPEC = LanguageModelSpec(
    state_size=64,
    output_offset=32,
    output_size=16,
    bos_token_id=0,
    eos_token_id=0,
    unk_token_id=1,
    special_token_ids=(0, 1),
)


@pytest.mark.parametrize("bos", [0, 7])
@pytest.mark.parametrize("tokens", [2, 100, 1500])
def test_scores_are_those_of_the_training_code(tmp_path: Path, tokens: int, bos: int) -> None:
    spec = msgspec.structs.replace(SPEC, bos_token_id=bos)
    model = language_model_of(language_model_checkpoint())
    round_model(model, "float16")
    graphs = write_language_model_graphs(tmp_path, weights_of(model), word_ranks(VOCABULARY, [0, 1]))
    stream = np.random.default_rng(0).integers(len(VOCABULARY), size=tokens)
    onnx = score_language_model(OnnxLanguageModel(tmp_path, graphs), spec, stream)
    reference = score(model, torch.from_numpy(stream), special_ids=(0, 1), unk_id=1, mark_id=mark_id(spec))
    assert onnx.perplexity == pytest.approx(reference.perplexity, rel=1e-5)
    assert onnx.top1_accuracy == pytest.approx(reference.top1_accuracy)
    assert onnx.top3_accuracy == pytest.approx(reference.top3_accuracy)
    assert onnx.unk_rate == pytest.approx(reference.unk_rate)


def test_a_mark_before_a_text_need_not_be_predicted() -> None:
    model = language_model_of(language_model_checkpoint())
    stream = torch.tensor([2, 9, 4, 0, 2, 11])
    with torch.inference_mode():
        log_probs = model(stream[None, :-1])[0][0].log_softmax(dim=-1)  # [5, vocab_size]
    loss = -sum(float(log_probs[place, stream[place + 1]]) for place in (0, 1, 2, 4)) / 4
    assert score(model, stream, special_ids=(), mark_id=2).perplexity == pytest.approx(np.exp(loss), rel=1e-5)


def test_a_text_without_a_word_to_predict_is_refused(tmp_path: Path) -> None:
    model = language_model_of(language_model_checkpoint())
    graphs = write_language_model_graphs(tmp_path, weights_of(model), word_ranks(VOCABULARY, [0, 1]))
    with pytest.raises(ValueError, match="no token"):
        score_language_model(OnnxLanguageModel(tmp_path, graphs), SPEC, np.array([0]))


def test_vectors_come_in_the_order_of_the_sentences_whatever_shares_a_run(tmp_path: Path) -> None:
    folder = sentence_encoder_bundle(tmp_path)
    encoder = OnnxSentenceEncoder(folder, {"encoder": "encoder.onnx"})
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(VOCABULARY[2:], size=rng.integers(1, 12))) for _ in range(150)]
    together = encode_sentences(encoder, tokenizer, sentences, max_seq_length=64)
    alone = [encode_sentences(encoder, tokenizer, [sentence], max_seq_length=64)[0] for sentence in sentences]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_sentence_is_cut_at_the_longest_length(tmp_path: Path) -> None:
    folder = sentence_encoder_bundle(tmp_path)
    encoder = OnnxSentenceEncoder(folder, {"encoder": "encoder.onnx"})
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    long, cut = encode_sentences(encoder, tokenizer, ["the car is new and we", "the car is"], max_seq_length=3)
    np.testing.assert_array_equal(long, cut)


def test_a_graph_that_onnx_runtime_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "head.onnx").write_bytes(b"not a graph")
    with pytest.raises(OnnxModelError, match=r"head\.onnx: ONNX Runtime cannot load it"):
        open_session(tmp_path / "head.onnx")
