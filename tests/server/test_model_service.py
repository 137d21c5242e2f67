"""ListModels and GetModel through the wire."""

from pathlib import Path

import grpc
import pytest

from hiddenstate.v1.model_pb2 import (
    MODEL_KIND_LANGUAGE_MODEL,
    MODEL_KIND_SENTENCE_ENCODER,
    MODEL_KIND_TENSOR_MODEL,
    GetModelRequest,
    ListModelsRequest,
)
from hiddenstate_server.offer import offer
from onnx_files import scale_model
from serving import Wire, failure, serving


async def test_models_are_listed_by_name_with_what_they_are(wire: Wire) -> None:
    encoder, language_model = (await wire.models.ListModels(ListModelsRequest())).models
    assert (encoder.name, encoder.version, encoder.kind) == ("tiny-encoder", "1", MODEL_KIND_SENTENCE_ENCODER)
    assert (encoder.dimension, encoder.normalized, encoder.max_seq_length) == (12, True, 64)
    assert (encoder.state_bytes, encoder.max_top_k) == (0, 0)
    assert (language_model.name, language_model.kind) == ("tiny-lm", MODEL_KIND_LANGUAGE_MODEL)
    assert (language_model.num_layers, language_model.hidden_size, language_model.dimension) == (2, 16, 0)
    assert language_model.state_bytes > 4 * 2 * 2 * 16
    assert language_model.max_top_k == language_model.vocab_size - 2  # two are no words
    assert language_model.provider == "CPUExecutionProvider"
    assert dict(language_model.metrics) == {"perplexity": language_model.vocab_size}
    assert language_model.license == "Apache-2.0"


async def test_a_model_is_described_by_name_and_version(wire: Wire) -> None:
    models = (await wire.models.ListModels(ListModelsRequest())).models
    for model in models:
        for version in ("", "1"):
            response = await wire.models.GetModel(GetModelRequest(name=model.name, version=version))
            assert response.model == model


async def test_models_that_only_the_open_inference_protocol_calls_are_listed_too(tmp_path: Path) -> None:
    scale_model(tmp_path)
    async with serving(tmp_path) as wire:
        (model,) = (await wire.models.ListModels(ListModelsRequest())).models
        assert (model.name, model.version, model.kind) == ("scale", "1", MODEL_KIND_TENSOR_MODEL)
        assert (model.architecture, model.provider) == ("onnxruntime_onnx", "CPUExecutionProvider")
        assert (await wire.models.GetModel(GetModelRequest(name="scale"))).model == model
        assert offer(wire.server.repository).command == "models"


@pytest.mark.parametrize(
    ("name", "version", "code"),
    [
        ("", "", grpc.StatusCode.INVALID_ARGUMENT),
        ("nobody", "", grpc.StatusCode.NOT_FOUND),
        ("tiny-lm", "2", grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_a_model_that_is_not_there_is_not_found(
    wire: Wire, name: str, version: str, code: grpc.StatusCode
) -> None:
    error = await failure(wire.models.GetModel(GetModelRequest(name=name, version=version)))
    assert error.code() is code
    assert error.details()
