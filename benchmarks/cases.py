"""The cases: each puts loads on servers, its contenders in turn, round after round, and gives rows of a table."""

import collections
import dataclasses
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks import in_process, peers, processes
from benchmarks.bundles import STEP_VOCAB_SIZE, Name, bundle_folder
from benchmarks.in_process import Loop
from benchmarks.load import Load, measure
from benchmarks.samples import Measured
from hiddenstate_server.bundle import VariantName

BOUND = "in process"


@dataclasses.dataclass(frozen=True)
class Row:
    """A contender in a case: medians over the rounds."""

    case: str
    contender: str
    per_s: float
    p50_ms: float = float("nan")
    p99_ms: float = float("nan")
    note: str = ""
    answers: int = 0  # in all rounds, as what follows
    wall_s: float = 0.0
    server_cpu_s: Mapping[str, float] = dataclasses.field(default_factory=dict)  # by thread, as `load_cpu_s`
    load_cpu_s: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """What all cases need."""

    models: Mapping[Name, Path]
    variant: VariantName
    rounds: int
    seconds: float
    seed: int
    with_peers: bool
    serve_options: tuple[str, ...] = ()

    def serve(self, stack: ExitStack, name: Name, *options: str) -> processes.Serving:
        """Starts hiddenstate with a model until the stack ends."""
        return stack.enter_context(
            processes.hiddenstate(self.models[name], "--variant", self.variant, *self.serve_options, *options)
        )

    def load(self, server: processes.Serving, **more: object) -> Callable[[], Measured]:
        """Returns a load on a server, to be measured each round."""
        values = {"seconds": self.seconds, "seed": self.seed, **more}
        return lambda: measure(Load(address=server.address, server_pid=server.pid, **values))  # type: ignore[arg-type]

    def bound(self, name: Name, **more: object) -> Callable[[], Measured]:
        """Returns the in-process bound of a model, to be measured each round."""
        values = {"seconds": self.seconds / 2, "seed": self.seed, "variant": self.variant, **more}
        loop = Loop(models=str(self.models[name]), **values)  # type: ignore[arg-type]
        nan = float("nan")
        return lambda: Measured(in_process.measure(loop).per_s, nan, nan, 0)

    def compare(self, case: str, contenders: Mapping[str, Callable[[], Measured]]) -> list[Row]:
        """Measures contenders in turn, `rounds` times, and returns their medians."""
        found: dict[str, list[Measured]] = {name: [] for name in contenders}
        for _ in range(self.rounds):
            for name, run in contenders.items():
                found[name].append(run())
        return [_row(case, name, measured) for name, measured in found.items()]


def _row(case: str, contender: str, measured: list[Measured]) -> Row:
    def median(field: str) -> float:
        return float(statistics.median(getattr(each, field) for each in measured))

    refused = int(median("refused"))
    note = f"{refused:,} refused, p99 {median('refused_p99_ms'):.0f} ms" if refused else ""
    return Row(
        case,
        contender,
        median("per_s"),
        median("p50_ms"),
        median("p99_ms"),
        note,
        answers=sum(each.count for each in measured),
        wall_s=sum(each.wall_s for each in measured),
        server_cpu_s=_sum(each.server_cpu_s for each in measured),
        load_cpu_s=_sum(each.load_cpu_s for each in measured),
    )


def _sum(measured: Iterable[Mapping[str, float]]) -> dict[str, float]:
    return dict(sum(map(collections.Counter, measured), collections.Counter[str]()))


def unary_encode(bench: Bench) -> list[Row]:
    """One sentence of 20 words a call, 32 callers."""
    case, bundle = "unary Encode, 32 callers", bundle_folder(bench.models["encoder"])
    with ExitStack() as stack:
        ours = bench.serve(stack, "encoder")
        contenders = {
            BOUND: bench.bound("encoder", kind="encode"),
            "hiddenstate": bench.load(ours, kind="encode", callers=32),
        }
        if bench.with_peers:
            contenders["plain grpc.aio"] = bench.load(
                stack.enter_context(peers.plain_grpc(bundle)), kind="encode", callers=32
            )
            contenders["mosec (HTTP)"] = bench.load(stack.enter_context(peers.mosec(bundle)), kind="http", callers=32)
            contenders["no model (the load's own limit)"] = bench.load(
                stack.enter_context(peers.echo()), kind="encode", callers=32
            )
        return bench.compare(case, contenders)


def client_encode(bench: Bench) -> list[Row]:
    """The thin client, 64 concurrent encode calls of one sentence."""
    with ExitStack() as stack:
        ours = bench.serve(stack, "encoder")
        contenders = {
            BOUND: bench.bound("encoder", kind="encode", batch_sizes=(32, 64)),
            "tasks": bench.load(ours, kind="tasks", callers=64),
            "threads": bench.load(ours, kind="threads", callers=64),
        }
        if bench.with_peers:
            echo = stack.enter_context(peers.echo())
            contenders["no model, tasks (the client's own limit)"] = bench.load(echo, kind="tasks", callers=64)
        return bench.compare("thin client, 64 concurrent encode calls", contenders)


def bulk_encode(bench: Bench) -> list[Row]:
    """One encode call of the thin client for 20,000 sentences of natural length mix."""
    with ExitStack() as stack:
        ours = bench.serve(stack, "encoder")
        return bench.compare(
            "bulk encode, 20,000 sentences of natural lengths",
            {
                f"{BOUND}, sorted by length": bench.bound("encoder", kind="bulk", batch_sizes=(32, 64)),
                f"{BOUND}, unsorted": bench.bound("encoder", kind="bulk", batch_sizes=(32, 64), sort=False),
                "hiddenstate": bench.load(ours, kind="bulk"),
            },
        )


def step(bench: Bench) -> list[Row]:
    """Next word over a stream, 32 contexts, LSTM 1x512."""
    return _contexts(bench, "step", "next word, 32 contexts, LSTM 1x512", 32, STEP_VOCAB_SIZE, batch_sizes=(32,))


def contexts(bench: Bench) -> list[Row]:
    """Next word over streams, 256 contexts, LSTM 2x512, vocabulary 20,000, top 5."""
    return _contexts(bench, "lm", "next word, 256 contexts, LSTM 2x512", 256, 20_000, batch_sizes=(64,))


def _contexts(
    bench: Bench, name: Name, case: str, callers: int, vocab_size: int, *, batch_sizes: tuple[int, ...]
) -> list[Row]:
    with ExitStack() as stack:
        ours = bench.serve(stack, name)
        contenders = {
            BOUND: bench.bound(name, kind="step", batch_sizes=batch_sizes),
            "hiddenstate": bench.load(ours, kind="contexts", callers=callers, vocab_size=vocab_size),
        }
        if callers > 64:
            alone = bench.serve(stack, name, "--max-batch", "1")
            contenders["hiddenstate, batch 1"] = bench.load(
                alone, kind="contexts", callers=callers, vocab_size=vocab_size
            )
        if bench.with_peers:
            echo = stack.enter_context(peers.echo())
            contenders["no model (the load's own limit)"] = bench.load(echo, kind="contexts", callers=callers)
        return bench.compare(case, contenders)


def cached_prefix(bench: Bench) -> list[Row]:
    """One caller: a context of 200 words of which 199 were seen before, and one of a single word."""
    with ExitStack() as stack:
        ours = bench.serve(stack, "lm")
        return bench.compare(
            "unary Predict, one caller",
            {
                "context of one word": bench.load(ours, kind="predict"),
                "200 words, 199 cached": bench.load(ours, kind="predict", num_words=200),
            },
        )


def mixed(bench: Bench) -> list[Row]:
    """One-token predictions beside others of one token, and beside texts of 500 tokens that are scored."""
    with ExitStack() as stack:
        ours = bench.serve(stack, "lm")
        seconds = bench.seconds + 1.0
        probe = bench.load(ours, kind="predict", per_s=50, seconds=bench.seconds)

        def beside(**background: object) -> Callable[[], Measured]:
            load = bench.load(ours, seconds=seconds, **background)

            def run() -> Measured:
                thread = threading.Thread(target=load)
                thread.start()
                time.sleep(1.0)  # until the background has begun
                try:
                    return probe()
                finally:
                    thread.join()

            return run

        return bench.compare(
            "one-token Predict, 50 a second",
            {
                "alone": probe,
                "beside 8 callers with one token": beside(kind="predict", callers=8),
                "beside 2 callers who score 500 tokens": beside(kind="score", callers=2, num_words=500),
            },
        )


def overload(bench: Bench) -> list[Row]:
    """Three times as many calls as the server can answer, each with a second of patience."""
    with ExitStack() as stack:
        ours = bench.serve(stack, "encoder")
        peak = bench.load(ours, kind="encode", callers=64)()
        before = processes.resident_bytes(ours.pid)
        offered = bench.load(ours, kind="encode", per_s=3 * peak.per_s, timeout_s=1.0, seconds=3 * bench.seconds)()
        grown = (processes.resident_bytes(ours.pid) - before) / 2**20
        rows = [_row("overload", "64 callers", [peak]), _row("overload", "three times that rate", [offered])]
        return [rows[0], dataclasses.replace(rows[1], note=f"{rows[1].note}; memory {grown:+.0f} MiB")]


def start(bench: Bench) -> list[Row]:
    """From starting the command to the first answer; processor time of an idle server."""
    code = "import sys, hiddenstate; hiddenstate.Client(sys.argv[1]).predict('w1 w2')"

    def once() -> Measured:
        with ExitStack() as stack:
            begun = time.perf_counter()
            ours = bench.serve(stack, "lm")
            subprocess.run([sys.executable, "-c", code, ours.address], check=True)
            seconds = time.perf_counter() - begun
        return Measured(1 / seconds, seconds * 1e3, seconds * 1e3, 1)

    with ExitStack() as stack:
        ours = bench.serve(stack, "lm")
        measure(Load(kind="predict", address=ours.address, server_pid=ours.pid, seconds=0.2))
        used, idle_s = processes.cpu_seconds(ours.pid), 5.0
        time.sleep(idle_s)
        share = (processes.cpu_seconds(ours.pid) - used) / idle_s
    (row,) = bench.compare("start to first answer", {"hiddenstate": once})
    return [dataclasses.replace(row, note=f"idle: {share:.1%} of a core")]


CASES: dict[str, Callable[[Bench], list[Row]]] = {
    case.__name__.replace("_", "-"): case
    for case in (unary_encode, client_encode, bulk_encode, step, contexts, cached_prefix, mixed, overload, start)
}
