"""A server of tiny ONNX models beside the tiny language model and sentence encoder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bundles import language_model_bundle, sentence_encoder_bundle
from onnx_files import echo_model, scale_model, sum_model
from serving import Wire, serving


@pytest.fixture(scope="session")
def tensor_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of all kinds. Not to be changed."""
    folder = tmp_path_factory.mktemp("tensor_models")
    language_model_bundle(folder)
    sentence_encoder_bundle(folder)
    echo_model(folder)
    scale_model(folder)
    sum_model(folder)
    return folder


@pytest_asyncio.fixture
async def tensors_wire(tensor_models_dir: Path) -> AsyncIterator[Wire]:
    """A server of all of them, with its defaults."""
    async with serving(tensor_models_dir) as wire:
        yield wire
