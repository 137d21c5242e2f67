"""What int8 gains: a bundle's int8 graphs beside its float32 ones and beside ONNX Runtime's dynamic quantisation.

    python -m benchmarks.int8 --help

Runs the graphs in this process, without a server: one next-word step of a language model (LSTM 2x512, vocabulary
20,000: both graphs, the 5 likeliest words) and sentences of 20 tokens through an encoder (bidirectional LSTM-256).
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from benchmarks.bundles import VOCAB_SIZE, bundle_folder, write_bundles
from benchmarks.machine import machine, versions
from benchmarks.report import replace_section
from hiddenstate_server.bundle import load_bundle
from hiddenstate_server.providers import CPU, Provider, make_session

BATCH_SIZES = (1, 8, 32, 128)
SEQ_LEN = 20
TOP_K = 5
CONTENDERS = ("fp32", "int8", "quantize_dynamic")
CASES = {"lm": "next word, LSTM 2x512, V=20k", "encoder": "encode 20 tokens, BiLSTM-256"}

Run = Callable[[int], NDArray[np.float32]]  # batch size -> one row of numbers for each context or sentence


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the results."""

    case: str
    batch_size: int
    contender: str
    median_ms: float
    p99_ms: float
    gain: float  # times as fast as fp32
    moved: float  # the largest difference of a row alone and in this batch


@click.command()
@click.option("--runs", type=click.IntRange(10, 100_000), default=300, show_default=True, help="Of each cell.")
@click.option("--threads", default=1, show_default=True, help="Of one model run.")
@click.option("--seed", default=1, show_default=True, help="Of weights and tokens.")
@click.option("--models", type=click.Path(path_type=Path), help="Folder to keep the bundles in.  [default: none]")
@click.option("--write", type=click.Path(path_type=Path), metavar="PAGE", help="Page to put the results into.")
def main(runs: int, threads: int, seed: int, models: Path | None, write: Path | None) -> None:
    """Measure float32, int8 and quantize_dynamic at batch 1, 8, 32 and 128, by turns, and print a table."""
    onnxruntime.disable_telemetry_events()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folders = write_bundles(models or Path(scratch), seed)
        for case in CASES:
            graphs = _graphs(bundle_folder(folders["lm" if case == "lm" else "encoder"]), Path(scratch))
            start = _language_model if case == "lm" else _encoder
            contenders = {name: start(paths, threads, seed) for name, paths in graphs.items()}
            for batch_size in BATCH_SIZES:
                rows += _measure(case, contenders, batch_size, runs)
                click.echo("\n".join(_line(row) for row in rows[-len(CONTENDERS) :]))
    how = f"{runs} runs of each cell by turns, {threads} thread{'s' * (threads > 1)}, seed {seed}"
    text = f"{machine()}\n{versions(('onnxruntime', 'numpy'))}; {how}.\n\n{_table(rows)}"
    click.echo(f"\n{text}")
    if write:
        replace_section(write, "int8", f"## Int8\n\n`python -m benchmarks.int8`: {text}\n\n{_READING}")


def _graphs(folder: Path, scratch: Path) -> dict[str, dict[str, Path]]:
    """Returns the graphs of each contender by name, and makes those of `quantize_dynamic`."""
    variants = load_bundle(folder).variants
    graphs = {
        name: {graph: folder / file for graph, file in variant.graphs.items()} for name, variant in variants.items()
    }
    dynamic = {graph: _quantize(path, scratch / f"{graph}.dynamic.onnx") for graph, path in graphs["fp32"].items()}
    return {"fp32": graphs["fp32"], "int8": graphs["int8"], "quantize_dynamic": dynamic}


def _quantize(path: Path, target: Path) -> Path:
    """Quantises a graph with ONNX Runtime's own tool, as its guide says, with its weights widened to float32 first."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target.with_suffix(".float32.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=[CPU])
    model = onnx.load(options.optimized_model_filepath, load_external_data=False)
    onnx.load_external_data_for_model(model, str(path.parent))  # what was not widened is still there
    products = ["LSTM", "MatMul", "Gemm"]  # all others it would make slower, or cannot
    quantize_dynamic(model, target, op_types_to_quantize=products, weight_type=QuantType.QInt8)
    return target


def _language_model(paths: Mapping[str, Path], threads: int, seed: int) -> Run:
    recurrent, head = (_session(paths[graph], threads) for graph in ("recurrent", "head"))
    state_size = next(value.shape[1] for value in recurrent.get_inputs() if value.name == "state")
    rng = np.random.default_rng(seed)
    rows = max(BATCH_SIZES)
    tokens = rng.integers(VOCAB_SIZE, size=(rows, 1))
    state = rng.uniform(-0.5, 0.5, (rows, state_size)).astype(np.float32)

    def run(batch_size: int) -> NDArray[np.float32]:
        feed = {
            "tokens": tokens[:batch_size],
            "lengths": np.ones(batch_size, np.int32),
            "state": state[:batch_size],
        }
        outputs, _ = recurrent.run(["outputs", "next_state"], feed)
        log_probs: NDArray[np.float32] = head.run(None, question(outputs[:, -1]))[0]
        return log_probs

    return run


def question(hidden: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Returns what a head is fed with to answer the likeliest words after `hidden` [batch, output_size]."""
    zeros = np.zeros(len(hidden), np.int64)
    return {
        "hidden": hidden,
        "k": np.array([TOP_K], np.int64),
        "targets": zeros,
        "restrict": np.array(False),
        "rank_low": zeros,
        "rank_high": zeros,
    }


def _encoder(paths: Mapping[str, Path], threads: int, seed: int) -> Run:
    session = _session(paths["encoder"], threads)
    tokens = np.random.default_rng(seed).integers(VOCAB_SIZE, size=(max(BATCH_SIZES), SEQ_LEN))

    def run(batch_size: int) -> NDArray[np.float32]:
        feed = {"tokens": tokens[:batch_size], "lengths": np.full(batch_size, SEQ_LEN, np.int32)}
        embeddings: NDArray[np.float32] = session.run(["embeddings"], feed)[0]
        return embeddings

    return run


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    return make_session(path, Provider(name=CPU, reason="benchmark"), threads)


def _measure(case: str, contenders: Mapping[str, Run], batch_size: int, runs: int) -> list[Row]:
    """Runs the contenders by turns, so that what slows the machine slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-max(3, runs // 10), runs):  # the first ones warm up
        for name, run in contenders.items():
            started_at = time.perf_counter()
            run(batch_size)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started_at)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return [
        Row(
            case=case,
            batch_size=batch_size,
            contender=name,
            median_ms=medians[name] * 1e3,
            p99_ms=float(np.quantile(seconds[name], 0.99)) * 1e3,
            gain=medians["fp32"] / medians[name],
            moved=float(np.abs(run(batch_size)[0] - run(1)[0]).max()),
        )
        for name, run in contenders.items()
    ]


def _table(rows: Sequence[Row]) -> str:
    head = (
        "| case | batch | contender | median ms | p99 ms | times fp32 | a row moves by |\n|---|--:|---|--:|--:|--:|--:|"
    )
    return "\n".join([head, *map(_line, rows)])


def _line(row: Row) -> str:
    numbers = f"{row.median_ms:.3f} | {row.p99_ms:.3f} | {row.gain:.2f} | {row.moved:.1e}"
    return f"| {CASES[row.case]} | {row.batch_size} | {row.contender} | {numbers} |"


_READING = """The last column is the largest difference between what the first row gives alone and in this batch.
Dynamic quantisation scales activations by the largest of the whole batch, so that neighbours move a row's answer; the
scales of these int8 graphs are constants, and the row keeps every bit."""


if __name__ == "__main__":
    main()
