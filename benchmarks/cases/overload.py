"""Three times as many requests as the server can answer."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.bench import Bench, Run
from benchmarks.load import Kind
from benchmarks.processes import Serving, resident_bytes
from benchmarks.results import OURS, Aim, Comparison, Outcome
from benchmarks.samples import Measured

_CALLERS = 64  # at the peak
_TIMES = 3.0
_LONG, _SHORT = 15.0, 2.0  # as multiples of a measurement's seconds: 30 s, and 4 s to look at other patience
_GOODPUT, _P99, _FLAT = 0.9, 2.0, 1.02
_PEAK, _OVERLOAD = f"{OURS} at its peak", f"{OURS}, offered three times that"
_SAMPLE_S = 0.25


def overload(bench: Bench) -> Outcome:
    """Unary calls whose callers wait twice as long as the slowest one in a hundred does at the peak."""
    return _overload(bench, "overload, unary Encode", "encode", streams=1)


def overload_stream(bench: Bench) -> Outcome:
    """The same over two streams."""
    return _overload(bench, "overload, EncodeStream", "encode-stream", streams=2)


def _overload(bench: Bench, case: str, kind: Kind, streams: int) -> Outcome:
    with ExitStack() as stack:
        ours = bench.serve(stack, "encoder")
        peak = bench.load(ours, kind=kind, callers=_CALLERS, streams=streams)
        found = bench.compare(case, {_PEAK: peak})
        per_s, p99_s = (
            sorted(getattr(each, field) for each in found.measured[_PEAK])[bench.rounds // 2]
            for field in ("per_s", "p99_ms")
        )
        patience_s = _P99 * p99_s / 1e3

        def offered(timeout_s: float | None, times: float) -> Run:
            return bench.load(
                ours,
                kind=kind,
                streams=streams,
                per_s=_TIMES * per_s,
                timeout_s=timeout_s,
                seconds=times * bench.seconds,
            )

        with _memory(ours) as resident:
            long = offered(patience_s, _LONG)()
        patient = offered(1.0, _SHORT)()
        endless = offered(None, _SHORT)()
    long = dataclasses.replace(long, note=f"patience {patience_s * 1e3:.0f} ms; {_growth(resident)}")
    others = Comparison(
        case, {_OVERLOAD: [long], "the same, patience 1 s": [patient], "the same, endless patience": [endless]}
    )
    return Outcome([*found.rows(), *others.rows()], _aims(case, found.measured[_PEAK], long, resident))


def _aims(case: str, peak: Sequence[Measured], long: Measured, resident: Sequence[int]) -> list[Aim]:
    middle = sorted(peak, key=lambda each: each.per_s)[len(peak) // 2]
    third = max(1, len(resident) // 3)
    flat = max(resident[-third:]) / max(resident[:third])
    late = long.refused_late + long.unanswered
    values = (
        ("goodput, of the peak", long.per_s / middle.per_s, _GOODPUT, "at least"),
        ("accepted p99, of the peak's", long.p99_ms / middle.p99_ms, _P99, "at most"),
        ("memory in the last third, of that in the first", flat, _FLAT, "at most"),
        ("refusals told after 20 ms or never, of all", late / max(1, long.refused + long.unanswered), 0.0, "at most"),
    )
    return [
        Aim(case=case, what=what, values=[value], limit=limit, kind=kind, unit="x")  # type: ignore[arg-type]
        for what, value, limit, kind in values
    ]


@contextmanager
def _memory(server: Serving) -> Iterator[list[int]]:
    """Gives a list of what the server's resident memory is meanwhile."""
    resident, over = [resident_bytes(server.pid)], threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_S):
            resident.append(resident_bytes(server.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield resident
    finally:
        over.set()
        watcher.join()


def _growth(resident: Sequence[int]) -> str:
    first, last = resident[0] / 2**20, resident[-1] / 2**20
    return f"memory {first:.0f} MiB, {last:.0f} MiB at the end, {max(resident) / 2**20:.0f} MiB at most"
