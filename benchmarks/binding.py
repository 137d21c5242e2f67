"""What IO binding gains: the server's runner beside plain runs of the same sessions.

    python -m benchmarks.binding --help

Runs in this process, without a server: contexts take one token further and ask for the 5 likeliest words, and their
states come and go as bytes, as in the server. One runner with one thread.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import click
import numpy as np
import onnxruntime

from benchmarks.bundles import bundle_folder, write_bundles
from benchmarks.int8 import TOP_K, question
from benchmarks.machine import machine, versions
from benchmarks.report import replace_section
from hiddenstate_server.bundle import VariantName, load_bundle
from hiddenstate_server.providers import CPU, Provider, make_session
from hiddenstate_server.runner import Floats, Ids, LanguageModelRunner

_BATCH_SIZES = (1, 8, 32, 128)
_HERE = Provider(name=CPU, reason="benchmark")
_CASES: tuple[tuple[str, Literal["step", "lm"], VariantName], ...] = (
    ("LSTM 1x512, V=500, fp32", "step", "fp32"),
    ("LSTM 2x512, V=20k, fp32", "lm", "fp32"),
    ("LSTM 2x512, V=20k, int8", "lm", "int8"),
)
_HEAD = "| case | batch | plain, median ms | bound, median ms | plain, of bound |\n|---|--:|--:|--:|--:|"

Recur = Callable[[Ids, Floats], Floats]  # tokens and states to next states, the head asked on the way


@click.command()
@click.option("--runs", type=click.IntRange(10, 100_000), default=500, show_default=True, help="Of each cell.")
@click.option("--seed", default=1, show_default=True, help="Of weights and tokens.")
@click.option("--models", type=click.Path(path_type=Path), help="Folder to keep the bundles in.  [default: none]")
@click.option("--write", type=click.Path(path_type=Path), metavar="PAGE", help="Page to put the results into.")
def main(runs: int, seed: int, models: Path | None, write: Path | None) -> None:
    """Measure plain and bound runs at batch 1, 8, 32 and 128, by turns, and print a table."""
    onnxruntime.disable_telemetry_events()
    lines = [_HEAD]
    with tempfile.TemporaryDirectory() as scratch:
        folders = write_bundles(models or Path(scratch), seed)
        for case, name, variant in _CASES:
            folder = bundle_folder(folders[name])
            contenders = {"plain": _plain(folder, variant), "bound": _bound(folder, variant)}
            for batch_size in _BATCH_SIZES:
                plain, bound = _measure(contenders, folder, batch_size, runs, seed)
                lines.append(f"| {case} | {batch_size} | {plain:.3f} | {bound:.3f} | {plain / bound:.2f} |")
                click.echo(lines[-1])
    how = f"{runs} runs of each cell by turns, 1 thread, seed {seed}"
    table = "\n".join(lines)
    text = f"{machine()}\n{versions(('onnxruntime', 'numpy'))}; {how}.\n\n{table}"
    click.echo(f"\n{text}")
    if write:
        replace_section(write, "binding", f"## IO binding\n\n`python -m benchmarks.binding`: {text}")


def _plain(folder: Path, variant: VariantName) -> Recur:
    graphs = load_bundle(folder).variants[variant].graphs
    recurrent, head = (make_session(folder / graphs[graph], _HERE, 1) for graph in ("recurrent", "head"))

    def recur(tokens: Ids, state: Floats) -> Floats:
        feed = {"tokens": tokens, "lengths": np.ones(len(tokens), dtype=np.int32), "state": state}
        outputs, next_state = recurrent.run(["outputs", "next_state"], feed)
        head.run(["top_log_probs", "top_ids", "target_log_probs"], question(outputs[:, -1]))
        return next_state  # type: ignore[no-any-return]

    return recur


def _bound(folder: Path, variant: VariantName) -> Recur:
    runner = LanguageModelRunner(load_bundle(folder), folder, variant=variant, provider=_HERE, threads=1)

    def recur(tokens: Ids, state: Floats) -> Floats:
        outputs, next_state = runner.recur(tokens, state)
        runner.head(outputs.last(), k=TOP_K, targets=None, ranks=None)
        return next_state

    return recur


def _measure(contenders: Mapping[str, Recur], folder: Path, batch_size: int, runs: int, seed: int) -> Sequence[float]:
    """Returns the contenders' medians in milliseconds."""
    bundle = load_bundle(folder)
    assert bundle.language_model
    tokens = np.random.default_rng(seed).integers(bundle.vocab_size, size=(batch_size, 1))
    states = {name: [bytes(4 * bundle.language_model.state_size)] * batch_size for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-max(3, runs // 10), runs):  # the first ones warm up
        for name, recur in contenders.items():
            started_at = time.perf_counter()
            states[name] = _step(recur, tokens, states[name])
            if number >= 0:
                seconds[name].append(time.perf_counter() - started_at)
    assert states["plain"] == states["bound"]  # to the bit, after hundreds of steps
    return [1e3 * float(np.median(values)) for values in seconds.values()]


def _step(recur: Recur, tokens: Ids, states: Sequence[bytes]) -> list[bytes]:
    state = np.frombuffer(b"".join(states), dtype=np.float32).reshape(len(states), -1)
    next_state = recur(tokens, state)
    rows, size = next_state.data.cast("B", (next_state.nbytes,)), next_state.strides[0]
    return [bytes(rows[row * size : (row + 1) * size]) for row in range(len(states))]


if __name__ == "__main__":
    main()
