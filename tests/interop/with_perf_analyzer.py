"""NVIDIA's perf_analyzer: plain, batched, streamed and sequence load. Its rates over so short a time mean nothing; what
is held is that it gets its answers, and that the server counted them."""

import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
from running import check, main, output_of
from served import served
from toolbox import perf_analyzer

from hiddenstate_server.inference.open_inference_pb2 import ModelStatisticsRequest
from hiddenstate_server.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from onnx_files import ELEMENTS

# Windows of so many requests, whatever they say of stability: this is about answers, not about speed.
WINDOW = 50
QUICK = ("--measurement-mode", "count_windows", "--measurement-request-count", WINDOW, "-s", "999", "-r", "5")
# The words of a sequence; perf_analyzer draws inputs that may be left out at random, unless it is told what to send.
SENTENCE = {"data": [[{"text": [word]} for word in ["I", "would", "like", "to", "thank", "you"]]]}
ONE_SEQUENCE_OF_10 = ("--sequence-length", "10", "--sequence-length-variation", "0")


class Run(NamedTuple):
    """One run of perf_analyzer."""

    what: str
    model: str
    options: Sequence[str]
    rows: int = 1  # of each request


RUNS = (
    Run("plain", "scale", ("--concurrency-range", "2")),
    Run("asynchronous", "scale", ("--concurrency-range", "4", "--async")),
    Run("batched", "scale", ("-b", "8"), 8),
    Run("streamed", "scale", ("--concurrency-range", "2", "--streaming", "--async")),
    Run("sequences", "sum", ("--concurrency-range", "4", *ONE_SEQUENCE_OF_10)),
    Run("sequences, streamed", "sum", ("--concurrency-range", "4", *ONE_SEQUENCE_OF_10, "--streaming")),
    Run("every datatype", "echo", tuple(f"--shape={name}:3" for name in ELEMENTS)),
    Run("a sentence encoder", "tiny-encoder", ("-b", "4", "--string-data", "car"), 4),
    Run("a language model", "tiny-lm", ("--concurrency-range", "4", "--streaming", "--input-data", "sentence.json")),
)


class Counts(NamedTuple):
    """What the server has counted of a model's requests."""

    answered: int
    failed: int
    rows: int


def script() -> None:
    """Makes each run, and holds what it did against the server's statistics."""
    program, environment = perf_analyzer()
    with served() as server, tempfile.TemporaryDirectory() as folder:
        Path(folder, "sentence.json").write_text(json.dumps(SENTENCE))
        for run in RUNS:
            before, report = counts(server.address, run.model), Path(folder) / "report.csv"
            command = (program, "-m", run.model, "-i", "grpc", "-u", server.address, *QUICK, "-f", report)
            printed = output_of(*command, *run.options, environment=environment, folder=folder)
            assert "error" not in printed.lower(), printed
            (row,) = csv.DictReader(report.read_text().splitlines())
            assert float(row["Inferences/Second"]) > 0, printed
            assert float(row["Server Compute Infer"]) > 0, printed
            hold(run, before, counts(server.address, run.model))


def hold(run: Run, before: Counts, after: Counts) -> None:
    """Checks that the server answered all, and all rows of each."""
    answered = after.answered - before.answered
    assert answered >= WINDOW, (run.what, before, after)
    check(f"perf_analyzer, {run.what}: refused", after.failed - before.failed, 0)
    check(f"perf_analyzer, {run.what}: rows of {answered} requests", after.rows - before.rows, run.rows * answered)


def counts(address: str, model: str) -> Counts:
    """Asks the server."""
    with grpc.insecure_channel(address) as channel:
        (now,) = GRPCInferenceServiceStub(channel).ModelStatistics(ModelStatisticsRequest(name=model)).model_stats
    return Counts(now.inference_stats.success.count, now.inference_stats.fail.count, now.inference_count)


if __name__ == "__main__":
    main(script)
