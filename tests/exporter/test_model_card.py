import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bundles import language_model_bundle, sentence_encoder_bundle
from hiddenstate_exporter.publishing.model_card import describe_metric, model_card
from hiddenstate_exporter.publishing.notices import WORDNET
from hiddenstate_server.bundle import Bundle, Training, load_bundle


def _trained_on(bundle: Bundle, data: str, command: str = "hiddenstate train") -> Bundle:
    training = Training(data=data, command=command, seconds=3600.0, epochs=2.5)
    return msgspec.structs.replace(bundle, training=training)


@pytest.fixture
def language_model(tmp_path: Path) -> Bundle:
    return load_bundle(language_model_bundle(tmp_path))


@pytest.fixture
def encoder(tmp_path: Path) -> Bundle:
    return load_bundle(sentence_encoder_bundle(tmp_path))


def test_a_card_says_where_the_model_comes_from(language_model: Bundle) -> None:
    card = model_card(_trained_on(language_model, "old speeches", "hiddenstate train --data speeches"), size=18_400_000)
    assert "Data: old speeches" in card
    assert "Time: 60 minutes, 2.5 epochs" in card
    assert "```\nhiddenstate train --data speeches\n```" in card
    assert "| Architecture | LSTM 2x16, embedding 8 (tied) |" in card
    assert "| Size | 18.4 MB, weights stored as float16 and computed in float32 |" in card
    assert "| State of one context | 256 bytes, however long the context is |" in card


def test_a_card_has_the_run_as_a_file_and_the_commands_of_a_run_that_was_resumed_with_changes(encoder: Bundle) -> None:
    began = "hiddenstate train sentence-encoder --data a.txt --run-dir r"
    config: dict[str, dict[str, Any]] = {
        "data": {"sentences": ["a.txt"]},
        "training": {"max_epochs": 9, "max_minutes": 1.5},
    }
    training = Training(
        data="a", command=f"{began}\n{began} --max-epochs 9 --resume", seconds=60, epochs=9, config=config
    )
    card = model_card(msgspec.structs.replace(encoder, training=training), size=1)
    assert f"Commands:\n\n```\n{began}\n{began} --max-epochs 9 --resume\n```" in card
    assert "for `hiddenstate train sentence-encoder --config FILE --run-dir RUN_DIR`:" in card
    assert tomllib.loads(card.split("```toml\n")[1].split("```")[0]) == config


def test_a_card_says_how_to_call_the_model_it_is_about(language_model: Bundle, encoder: Bundle) -> None:
    assert 'client.predict("I would like to thank", model="tiny-lm"' in model_card(language_model, size=1)
    assert 'client.encode(["a sentence", "another one"], model="tiny-encoder")' in model_card(encoder, size=1)


def test_the_code_on_a_card_is_python(language_model: Bundle, encoder: Bundle) -> None:
    for bundle in (language_model, encoder):
        code = model_card(bundle, size=1).split("```python\n")[1].split("```")[0]
        compile(code, "README.md", "exec")


def test_a_card_shows_metrics_as_people_read_them(language_model: Bundle) -> None:
    metrics = {"top1_accuracy": 0.2126, "perplexity": 98.765, "my_own": 0.123456}
    card = model_card(msgspec.structs.replace(language_model, metrics=metrics), size=1)
    assert "| Perplexity | 98.77 |\n| Next word is the first candidate | 21.3% |\n| my own | 0.1235 |" in card
    assert describe_metric("sts_dev_spearman", 0.71234)[1] == "0.7123"


def test_a_card_without_metrics_says_so(language_model: Bundle) -> None:
    assert "Nothing was measured." in model_card(msgspec.structs.replace(language_model, metrics={}), size=1)


def test_a_card_says_how_near_the_graphs_are_to_pytorch(language_model: Bundle) -> None:
    card = model_card(language_model, size=1)
    assert "compared with PyTorch in 1 cases" in card
    assert "0.0001 is allowed" in card


def test_a_model_trained_on_wordnet_keeps_its_notice(encoder: Bundle) -> None:
    assert WORDNET in model_card(_trained_on(encoder, "WordNet 3.0 glosses"), size=1)
    assert WORDNET in model_card(_trained_on(encoder, "glosses", "--data wordnet_glosses.txt.xz"), size=1)
    assert "Princeton" not in model_card(_trained_on(encoder, "speeches"), size=1)
    by_file = Training(data="glosses", command="", seconds=1, epochs=1, config={"data": {"text": ["wordnet.txt"]}})
    assert WORDNET in model_card(msgspec.structs.replace(encoder, training=by_file), size=1)


def test_sentences_of_the_sts_benchmark_are_credited_if_they_were_trained_on(encoder: Bundle) -> None:
    assert "CC BY-SA" in model_card(_trained_on(encoder, "sentences from sts-train.csv"), size=1)
    assert "CC BY-SA" not in model_card(_trained_on(encoder, "glosses", "--sts sts-dev.csv"), size=1)
