"""Tiny real models for servers."""

from pathlib import Path

import pytest

from bundles import language_model_bundle, sentence_encoder_bundle


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one language model and one sentence encoder. Not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    language_model_bundle(folder)
    sentence_encoder_bundle(folder)
    return folder
