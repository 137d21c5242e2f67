"""`hiddenstate serve --workers`: several processes on one port, kept by one that serves nothing."""

import os
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client.parser import text_string_to_metric_families

from hiddenstate.connection import channel_options
from hiddenstate.v1.language_model_pb2 import (
    GenerateRequest,
    GenerateResponse,
    PredictRequest,
    PredictStreamRequest,
    StreamedPredictRequest,
)
from hiddenstate.v1.language_model_pb2_grpc import LanguageModelServiceStub
from serve_process import PORT_IN_USE, WAIT_S, ServeProcess, failed_serve, serve

TEXT = "I would like to thank"
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)  # else the channels of one process share theirs


def page(server: ServeProcess) -> dict[tuple[str, ...], float]:
    """Scrapes: values by the name and the labels' values."""
    with urllib.request.urlopen(server.announcement[0].split()[-1], timeout=WAIT_S) as response:
        text = response.read().decode()
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def connection(server: ServeProcess, stack: ExitStack, *options: tuple[str, str | int]) -> grpc.Channel:
    """Opens a connection of its own, with the thin client's retries."""
    every = (*channel_options(2**20), OWN_CONNECTION, *options)
    return stack.enter_context(grpc.insecure_channel(server.address, every))


def connections(server: ServeProcess, stack: ExitStack, *options: tuple[str, str | int]) -> dict[str, grpc.Channel]:
    """Opens a connection to each of two workers: which of them gets one is chance. The server has to log all calls."""
    found: dict[str, grpc.Channel] = {}
    while len(found) < 2:
        channel = connection(server, stack, *options)
        LanguageModelServiceStub(channel).Predict(PredictRequest(text=TEXT), timeout=WAIT_S)
        worker = re.search(r"worker=(\d+)", server.logged("method=Predict"))
        assert worker
        found.setdefault(worker[1], channel)
    return found


def test_two_workers_are_announced_once_share_the_port_and_have_one_metrics_page(models_dir: Path) -> None:
    with serve(models_dir, "--workers", "2", "--log-calls", "all") as server, ExitStack() as stack:
        serving, trying = server.announcement
        assert serving.startswith(f"Serving tiny-encoder 1, tiny-lm 1 on {server.address}, metrics on http://")
        assert trying == f'Try: hiddenstate predict "{TEXT}" --server {server.address}\n'
        assert len(server.workers()) == 2
        channels = connections(server, stack)
        assert set(channels) == {"1", "2"}
        for channel in channels.values():
            stub: Any = HealthStub(channel)  # without type stubs
            health = stub.Check(HealthCheckRequest(service="tiny-lm"), timeout=WAIT_S)
            assert health.status == HealthCheckResponse.SERVING
        before = page(server)["hiddenstate_requests_total", "OK", "Predict"]
        for channel in channels.values():
            LanguageModelServiceStub(channel).Predict(PredictRequest(text=TEXT), timeout=WAIT_S)
        values = page(server)
        assert values["hiddenstate_requests_total", "OK", "Predict"] == before + 2
        for worker in channels:
            assert values["hiddenstate_worker_up", worker] == 1
            assert values["process_resident_memory_bytes", worker] > 0
        server.signal(signal.SIGINT)
        assert server.exit_code() == 0


def test_a_worker_that_is_killed_under_load_fails_no_call_that_is_tried_again(models_dir: Path) -> None:
    with serve(models_dir, "--workers", "2") as server, ExitStack() as stack:
        stubs = [LanguageModelServiceStub(connection(server, stack)) for _ in range(8)]
        for stub in stubs:
            stub.Predict(PredictRequest(text=TEXT), timeout=WAIT_S)
        started_again = threading.Event()

        def call(stub: LanguageModelServiceStub) -> int:
            calls = 0
            while not started_again.is_set():
                assert stub.Predict(PredictRequest(text=TEXT), timeout=WAIT_S).candidates
                calls += 1
            return calls

        with ThreadPoolExecutor(len(stubs)) as pool, ExitStack() as at_last:
            at_last.callback(started_again.set)
            counts = [pool.submit(call, stub) for stub in stubs]
            killed, other = server.workers()
            before = page(server)["hiddenstate_requests_total", "OK", "Predict"]
            os.kill(killed, signal.SIGKILL)
            server.logged("was ended by SIGKILL; starting another in 0.2 s")
            assert page(server)["hiddenstate_requests_total", "OK", "Predict"] >= before
            server.logged("serves: process")
            started_again.set()
            assert all(count.result() for count in counts)
        after = page(server)
        assert after["hiddenstate_worker_up", "1"] + after["hiddenstate_worker_up", "2"] == 2
        restarts = [after["hiddenstate_worker_restarts_total", worker] for worker in "12"]
        assert sorted(restarts) == [0, 1]
        assert killed not in server.workers()
        assert other in server.workers()


def test_sigterm_finishes_what_runs_in_every_worker_and_exits_with_0(models_dir: Path) -> None:
    small_window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384))
    arguments = ("--workers", "2", "--log-calls", "all", "--max-generated-tokens", "3000")
    with serve(models_dir, *arguments) as server, ExitStack() as stack:
        channels = connections(server, stack, *small_window).values()
        # More than the window of flow control holds, so they cannot have ended when the signal comes.
        request = GenerateRequest(text=TEXT, max_tokens=3000, temperature=0)
        calls = [LanguageModelServiceStub(channel).Generate(request, timeout=WAIT_S) for channel in channels]
        for call in calls:
            next(call)
        server.signal(signal.SIGTERM)
        for _ in calls:
            server.logged("draining: 1 calls run")
        for channel in channels:
            with pytest.raises(grpc.RpcError) as refused:
                LanguageModelServiceStub(channel).Predict(PredictRequest(text=TEXT), timeout=WAIT_S)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        for call in calls:
            responses = list(call)
            assert len(responses) == 2999
            assert responses[-1].finish_reason == GenerateResponse.FINISH_REASON_LENGTH
        assert server.exit_code() == 0
        assert server.all_ended()


def test_a_worker_takes_several_signals_for_one(models_dir: Path) -> None:
    # A service manager sends one to each process, and the supervisor passes its own on.
    with serve(models_dir, "--workers", "2") as server:
        for pid in (server.pid, *server.workers()):
            os.kill(pid, signal.SIGTERM)
        assert server.exit_code() == 0
        assert server.all_ended()


def test_a_second_signal_ends_all_at_once(models_dir: Path) -> None:
    with serve(models_dir, "--workers", "2") as server, ExitStack() as stack:
        stub = LanguageModelServiceStub(connection(server, stack))
        next(stub.Generate(GenerateRequest(text=TEXT, max_tokens=1000, temperature=0), timeout=WAIT_S))
        server.signal(signal.SIGINT)
        server.logged("SIGINT")
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 128 + signal.SIGTERM
        assert server.all_ended()


def test_workers_whose_supervisor_was_killed_drain_and_end(models_dir: Path) -> None:
    with serve(models_dir, "--workers", "2") as server:
        server.signal(signal.SIGKILL)
        server.logged("the supervisor is gone")
        server.logged("drained")
        assert server.all_ended()


def test_models_that_cannot_be_served_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    arguments = ("--models", str(tmp_path), "--workers", "3", "--listen", "127.0.0.1:0", "--metrics", "off")
    result = failed_serve(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = [line for line in result.stderr.splitlines() if " INFO " not in line]
    assert line.startswith(f"Error: --models {tmp_path}: has no models")


def test_ports_in_use_are_told_by_their_flags(models_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flags in (("--listen", address, "--metrics", "off"), ("--listen", "127.0.0.1:0", "--metrics", address)):
            result = failed_serve("--models", str(models_dir), "--workers", "2", *flags)
            name = flags[0] if flags[1] == address else flags[2]
            assert (
                result.stderr
                == f"Error: {name} {address}: cannot listen there: Address already in use; {PORT_IN_USE}\n"
            )
            assert (result.returncode, result.stdout) == (1, "")


def test_a_second_server_does_not_join_the_workers_of_the_first(models_dir: Path) -> None:
    with serve(models_dir, "--workers", "2") as server:
        for workers in ("1", "2"):
            arguments = ("--listen", server.address, "--metrics", "off", "--workers", workers)
            result = failed_serve("--models", str(models_dir), *arguments)
            assert result.returncode == 1
            assert "Address already in use" in result.stderr


def test_what_a_caller_may_use_holds_for_all_workers_together(models_dir: Path) -> None:
    arguments = ("--workers", "2", "--log-calls", "all", "--caller-streams", "2")
    with serve(models_dir, *arguments) as server, ExitStack() as stack:
        channels = list(connections(server, stack).values())
        request = PredictStreamRequest(requests=[StreamedPredictRequest(predict=PredictRequest(text=TEXT))])
        ended = threading.Event()
        stack.callback(ended.set)

        def requests() -> Iterator[PredictStreamRequest]:
            yield request
            ended.wait(WAIT_S)

        streams = [LanguageModelServiceStub(channel).PredictStream(requests()) for channel in channels]
        for stream in streams:
            next(stream)
        for channel in channels:
            with pytest.raises(grpc.RpcError) as refused:
                list(LanguageModelServiceStub(channel).Generate(GenerateRequest(text=TEXT), timeout=WAIT_S))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "has 2 streams open, as many as it may" in (refused.value.details() or "")
        os.kill(server.workers().pop(), signal.SIGKILL)
        server.logged("starting another")
        another = connection(server, stack)  # to the worker that is left, which counts the streams of the other no more
        assert list(LanguageModelServiceStub(another).Generate(GenerateRequest(text=TEXT), timeout=WAIT_S))
