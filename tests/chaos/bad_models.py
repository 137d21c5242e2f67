"""Models that raise, hang or eat memory: their callers are told, and a process that can serve no longer ends.

PYTHONPATH=tests python -m chaos.bad_models
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import grpc
import numpy as np

from bundles import language_model_bundle
from hiddenstate import Client
from hiddenstate.errors import HiddenstateError, ModelFailedError, OverloadedError, call_error
from hiddenstate_server.config import MIB
from hiddenstate_server.inference.open_inference_pb2 import ModelInferRequest
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from onnx_files import counting_model, filling_model
from serve_process import WAIT_S, ServeProcess, serve

AS_GOOD_AS_EVER = 2**50
_MORE_THAN_ANY_MEMORY = 2**44


@contextmanager
def bad_models() -> Iterator[Path]:
    """Makes a folder with a tiny model, and models that count and fill memory as they are told."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        language_model_bundle(models)
        counting_model(models)
        filling_model(models)
        yield models


def ask(server: ServeProcess, model: str, number: int) -> int:
    """Has a model count to a number, or fill memory with so many values.

    Raises:
        HiddenstateError: it could not.
    """
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1, 1])
    request = ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[np.array([number], "<i8").tobytes()]
    )
    try:
        with grpc.insecure_channel(server.address) as channel:
            response = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=WAIT_S)
    except grpc.RpcError as error:
        raise call_error(error, server.address) from None
    return int(np.frombuffer(response.raw_output_contents[0], "<i8")[0])


def failure(server: ServeProcess, model: str, number: int) -> HiddenstateError:
    """Returns why a model could not."""
    try:
        answer = ask(server, model, number)
    except HiddenstateError as error:
        return error
    raise AssertionError(f"{model} answered {answer}")


def raise_again_and_again(models: Path, times: int) -> str:
    """Asks a model for more memory than there is. That is its callers' fault: all else goes on."""
    with serve(models) as server, Client(server.address) as client:
        for _ in range(times):
            error = failure(server, "filling", _MORE_THAN_ANY_MEMORY)
            assert isinstance(error, OverloadedError), repr(error)
            assert client.predict("I").candidates
        assert ask(server, "filling", 3) == 3
    return str(error)


def hang(models: Path) -> str:
    """Has a model count for years: the process ends."""
    with serve(models, "--batch-timeout-s", "0.5") as server:
        assert ask(server, "counting", 3) == 6
        error = failure(server, "counting", AS_GOOD_AS_EVER)
        assert isinstance(error, ModelFailedError)
        assert "did not end its work in time" in str(error)
        told = server.logged("a batch runs for more than 0.5 s (--batch-timeout-s)")
        assert server.exit_code() == 1
    return told.strip()


def eat_memory(models: Path) -> str:
    """Has a model take more memory than the process may: it finishes what runs and ends."""
    with serve(models) as server:
        used = server.metric("process_resident_memory_bytes")
    most = int(used) // MIB + 200
    with serve(models, "--max-memory", f"{most}MiB") as server, Client(server.address) as client:
        assert client.predict("I").candidates
        assert ask(server, "filling", 2**27) == 2**27  # 512 MiB
        told = server.logged("(--max-memory)")
        assert server.exit_code() == 1
    return told.strip()


@click.command()
@click.option("--rounds", default=3, show_default=True, help="How often each is done.")
def main(rounds: int) -> None:
    """Serve models that raise, hang and eat memory."""
    with bad_models() as models:
        for _ in range(rounds):
            click.echo(f"raises: {raise_again_and_again(models, 20)}")
            click.echo(f"hangs: {hang(models)}")
            click.echo(f"eats memory: {eat_memory(models)}")


if __name__ == "__main__":
    main()
