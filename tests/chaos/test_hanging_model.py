"""A model that never ends its work takes its process along, and a supervisor starts another."""

from pathlib import Path

import grpc
import numpy as np
import pytest

from hiddenstate import Client, ModelFailedError
from hiddenstate.errors import call_error
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from onnx_files import counting_model
from serve_process import WAIT_S, ServeProcess, serve


@pytest.fixture
def models(models_dir: Path, tmp_path: Path) -> Path:
    """The tiny models, and one that counts to what it is told."""
    for model in models_dir.iterdir():
        (tmp_path / model.name).symlink_to(model)
    counting_model(tmp_path)
    return tmp_path


def count(server: ServeProcess, steps: int) -> int:
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1, 1])
    request = ModelInferRequest(
        model_name="counting", inputs=[tensor], raw_input_contents=[np.array([steps], "<i8").tobytes()]
    )
    with grpc.insecure_channel(server.address) as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=WAIT_S)
    return int(np.frombuffer(response.raw_output_contents[0], "<i8")[0])


def hang(server: ServeProcess) -> None:
    """Has the model count for years, and checks what its caller is told."""
    with pytest.raises(grpc.RpcError) as caught:
        count(server, 2**50)
    error = call_error(caught.value, server.address)
    assert isinstance(error, ModelFailedError)
    assert "did not end its work in time" in str(error)


def test_a_server_whose_model_hangs_ends_with_a_clear_line(models: Path) -> None:
    with serve(models, "--batch-timeout-s", "0.5") as server:
        assert count(server, 3) == 6
        hang(server)
        assert server.logged("a batch runs for more than 0.5 s (--batch-timeout-s): ending with exit code 1")
        assert server.exit_code() == 1


def test_a_worker_whose_model_hangs_is_replaced(models: Path) -> None:
    with serve(models, "--batch-timeout-s", "0.5", "--workers", "2") as server, Client(server.address) as client:
        hang(server)
        server.logged("ended with exit code 1; starting another")
        server.logged("serves: process")
        assert client.predict("I").candidates
        assert count(server, 3) == 6
