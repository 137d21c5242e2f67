"""Three times as many requests as the server can answer."""

import dataclasses
import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.bench import Bench
from benchmarks.load import Kind
from benchmarks.processes import Serving, resident_bytes
from benchmarks.results import OURS, Aim, Comparison, Outcome
from benchmarks.samples import Measured

_CALLERS = 64  # at the peak
_TIMES = 3.0
_LONG, _SHORT = 15.0, 2.0  # as multiples of a measurement's seconds: 30 s, and 4 s to look at other patience
_GOODPUT, _P99, _FLAT = 0.9, 2.0, 1.02
_PEAK, _OVERLOAD = f"{OURS} at its peak", f"{OURS}, offered three times that"
_OTHERS = (("1 s", 1.0), ("without end", None))
_SAMPLE_S = 0.25


def overload(bench: Bench) -> Outcome:
    """Unary calls whose callers wait twice as long as the slowest one in a hundred does at the peak."""
    return _overload(bench, "overload, unary Encode", "encode", streams=1)


def overload_stream(bench: Bench) -> Outcome:
    """The same over two streams."""
    return _overload(bench, "overload, EncodeStream", "encode-stream", streams=2)


def _overload(bench: Bench, case: str, kind: Kind, streams: int) -> Outcome:
    with ExitStack() as stack:
        offer = _Offer(bench, bench.serve(stack, "encoder"), kind, streams)
        rounds = [offer.round() for _ in range(bench.rounds)]
        others = {f"the same, patience {name}": [offer.once(each)] for name, each in _OTHERS}
    measured = {_PEAK: [each.peak for each in rounds], _OVERLOAD: [each.overload for each in rounds], **others}
    return Outcome(Comparison(case, measured).rows(), _aims(case, rounds))


@dataclasses.dataclass(frozen=True)
class _Round:
    """The peak, what came of three times as much, and the server's resident memory meanwhile."""

    peak: Measured
    overload: Measured
    resident: Sequence[int]

    @property
    def growth(self) -> float:
        """The memory in the last third, of that in the first."""
        third = max(1, len(self.resident) // 3)
        return max(self.resident[-third:]) / max(self.resident[:third])

    @property
    def told_late(self) -> float:
        """The share of refusals that were told too late or never."""
        never = self.overload.unanswered
        return (self.overload.refused_late + never) / max(1, self.overload.refused + never)


class _Offer:
    """Offers a server more than it can take."""

    def __init__(self, bench: Bench, server: Serving, kind: Kind, streams: int) -> None:
        self._seconds = bench.seconds
        self._server = server
        self._load = functools.partial(bench.load, server, kind=kind, streams=streams)
        self._peak = self._load(callers=_CALLERS)
        self._per_s = 0.0

    def round(self) -> _Round:
        """Measures the peak and the overload."""
        peak = self._peak()
        self._per_s = _TIMES * peak.per_s
        patience_s = _P99 * peak.p99_ms / 1e3
        load = self._load(per_s=self._per_s, timeout_s=patience_s, seconds=_LONG * self._seconds)
        with _memory(self._server) as resident:
            overload = load()
        note = f"patience {patience_s * 1e3:.0f} ms; {_growth(resident)}"
        return _Round(peak, dataclasses.replace(overload, note=note), resident)

    def once(self, patience_s: float | None) -> Measured:
        """Measures for a shorter time with other callers."""
        return self._load(per_s=self._per_s, timeout_s=patience_s, seconds=_SHORT * self._seconds)()


def _aims(case: str, rounds: Sequence[_Round]) -> list[Aim]:
    def at_most(what: str, values: Sequence[float], limit: float, unit: str = "x") -> Aim:
        return Aim(case=case, what=what, values=values, limit=limit, kind="at most", unit=unit)

    goodput = [each.overload.per_s / each.peak.per_s for each in rounds]
    return [
        Aim(case=case, what="goodput, of the peak", values=goodput, limit=_GOODPUT, unit="x"),
        at_most(
            "p99 of the answered, of the peak's", [each.overload.p99_ms / each.peak.p99_ms for each in rounds], _P99
        ),
        at_most("memory in the last third, of that in the first", [each.growth for each in rounds], _FLAT),
        at_most("share of refusals told after 20 ms or never", [each.told_late for each in rounds], 0.0, ""),
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
