"""`hiddenstate serve` as a process: what it says, how it ends, and how it refuses to start."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import msgspec
import pytest

from hiddenstate import Client
from hiddenstate.v1.language_model_pb2 import (
    GenerateRequest,
    GenerateResponse,
    PredictRequest,
    PredictStreamRequest,
    StreamedPredictRequest,
)
from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceStub
from hiddenstate_server.bundle import BUNDLE_FILE, Bundle, write_bundle
from serve_process import COMMAND, PORT_IN_USE, WAIT_S, failed_serve, serve

TEXT = "I would like to thank"


def test_two_lines_say_what_is_served_where_and_what_to_try(models_dir: Path) -> None:
    with serve(models_dir) as server:
        serving, trying = server.announcement
        assert serving.startswith(f"Serving tiny-encoder 1, tiny-lm 1 on {server.address}, metrics on http://")
        assert trying == f'Try: hiddenstate predict "{TEXT}" --server {server.address}\n'
        command = [sys.executable, "-c", "from hiddenstate.cli import main; main()", "predict", TEXT]
        tried = subprocess.run([*command, "--server", server.address], capture_output=True, text=True, check=True)
        assert len(tried.stdout.splitlines()) == 5
        with urllib.request.urlopen(serving.split()[-1], timeout=WAIT_S) as response:
            assert b'hiddenstate_requests_total{code="OK",method="PredictStream"} 1.0' in response.read()
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_open_to_strangers_is_warned_of_once(models_dir: Path, workers: str) -> None:
    with serve(models_dir, "--listen", "0.0.0.0:0", "--workers", workers) as server:
        server.signal(signal.SIGTERM)
        (warning,) = [line for line in server.logged_until("draining") if "anybody who reaches it" in line]
        assert f" WARNING hiddenstate_server.announcement: --listen {server.address} is open: " in warning
        assert server.exit_code() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_variable_that_is_no_setting_is_warned_of_once(models_dir: Path, workers: str) -> None:
    variables = {"HIDDENSTATE_MAX_BATCHES": "9", "HIDDENSTATE_PORT": "tcp://10.96.0.7:50051"}
    with serve(models_dir, "--workers", workers, **variables) as server:
        server.signal(signal.SIGTERM)
        (warning,) = [line for line in server.logged_until("draining") if "environment variable" in line]
        assert (
            "HIDDENSTATE_MAX_BATCHES is no setting, and changes nothing; the nearest one is HIDDENSTATE_MAX_BATCH\n"
            in (warning)
        )
        assert server.exit_code() == 0


def test_sigterm_finishes_what_runs_refuses_what_is_new_and_exits_with_0(models_dir: Path) -> None:
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384)]
    with (
        serve(models_dir, "--max-generated-tokens", "3000") as server,
        grpc.insecure_channel(server.address, options=small_window) as channel,
    ):
        stub = LanguageModelServiceStub(channel)
        # More than the window of flow control holds, so it cannot have ended when the signal comes.
        generating = stub.Generate(GenerateRequest(text=TEXT, max_tokens=3000, temperature=0), timeout=WAIT_S)
        next(generating)
        message = StreamedPredictRequest(request_id=1, context_id=1, predict=PredictRequest(text=TEXT))
        ended = threading.Event()
        streaming = stub.PredictStream(_one(PredictStreamRequest(requests=[message]), ended), timeout=WAIT_S)
        assert next(streaming).responses[0].response.candidates
        server.signal(signal.SIGTERM)
        server.logged("draining: 2 calls run")
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(PredictRequest(text=TEXT), timeout=WAIT_S)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError) as cut:
            next(streaming)
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        ended.set()
        responses = list(generating)
        assert len(responses) == 2999
        assert responses[-1].finish_reason == GenerateResponse.FINISH_REASON_LENGTH
        assert server.exit_code() == 0


def test_a_second_signal_ends_the_process_at_once(models_dir: Path) -> None:
    with serve(models_dir) as server, grpc.insecure_channel(server.address) as channel:
        request = GenerateRequest(text=TEXT, max_tokens=1000, temperature=0)
        generating = LanguageModelServiceStub(channel).Generate(request, timeout=WAIT_S)
        next(generating)
        server.signal(signal.SIGINT)
        server.logged("SIGINT")
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 128 + signal.SIGTERM


# Loaded by every interpreter that starts: models are not loaded before somebody has written to a pipe.
HELD = """
import os
from hiddenstate_server.repository import Repository

def wait(*_, **__):
    open(os.environ["HELD_BY"], "rb").read()

Repository.open = wait
"""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_is_served_ends_the_start_at_once(
    models_dir: Path, tmp_path: Path, workers: str, number: signal.Signals
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HELD)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    arguments = ("--models", str(models_dir), "--workers", workers, "--listen", "127.0.0.1:0", "--metrics", "off")
    with (
        subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, "PYTHONPATH": path, "HELD_BY": str(pipe)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        pipe.open("wb"),  # waits for the reader: models would be loaded now
    ):
        process.send_signal(number)
        printed, logged = process.communicate(timeout=WAIT_S)
    assert (process.returncode, printed) == (0, "")
    (line,) = logged.splitlines()
    assert line.endswith(f"{number.name}: ended before anything was served")


def test_log_lines_are_json_where_the_environment_asks_for_it(models_dir: Path) -> None:
    with serve(models_dir, HIDDENSTATE_LOG_FORMAT="json", HIDDENSTATE_LOG_CALLS="all") as server:
        with Client(server.address) as client:
            client.score(TEXT)
        line = json.loads(server.logged('"Score"'))
        assert (line["message"], line["method"], line["code"], line["level"]) == ("call", "Score", "OK", "info")
        server.signal(signal.SIGINT)
        assert server.exit_code() == 0


def _remove(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _damage(folder: Path) -> None:
    with (folder / "weights.bin").open("r+b") as file:
        file.seek(100)
        file.write(b"damaged")


def _truncate_graph(folder: Path) -> None:
    graph = folder / "recurrent.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    write_bundle(msgspec.json.decode((folder / BUNDLE_FILE).read_bytes(), type=Bundle), folder)


def _remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (_remove, "tokenizer.json: no such file"),
        (_damage, "weights.bin: SHA-256 is "),
        (_truncate_graph, "recurrent.onnx: "),
        (_remove_all, "has no models"),
    ],
)
def test_models_that_cannot_be_served_are_told_in_one_line_with_exit_code_1(
    models_dir: Path, tmp_path: Path, harm: Callable[[Path], None], named: str
) -> None:
    shutil.copytree(models_dir / "tiny-lm", tmp_path / "tiny-lm")
    harm(tmp_path / "tiny-lm" / "1")
    result = failed_serve("--models", str(tmp_path), "--listen", "127.0.0.1:0", "--metrics", "off")
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if " INFO " not in line]
    assert line.startswith("Error: ")
    assert named in line


def test_a_port_in_use_is_told_in_one_line_with_exit_code_1(models_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = failed_serve("--models", str(models_dir), "--listen", address, "--metrics", "off")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"Error: --listen {address}: cannot listen there: Address already in use; {PORT_IN_USE}\n"


def _one(message: PredictStreamRequest, ended: threading.Event) -> Iterator[PredictStreamRequest]:
    """Sends one message and then leaves the stream open until the event is set."""
    yield message
    ended.wait(WAIT_S)
