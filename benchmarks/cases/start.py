"""A server that starts, and one that nobody asks anything."""

import time
from contextlib import ExitStack

from benchmarks import processes
from benchmarks.bench import Bench
from benchmarks.cpu import thread_times, used
from benchmarks.results import OURS, Aim, Outcome
from benchmarks.samples import Measured
from hiddenstate import Client

_MODELS = processes.ROOT / "models"  # as shipped, with the settings that a server has by itself
_START_S, _IDLE_SHARE, _IDLE_S = 2.0, 0.01, 5.0


def start(bench: Bench) -> Outcome:
    """From starting the command with the shipped models to the first answer; processor time of an idle server."""
    found = bench.compare("start to first answer, shipped models", {OURS: _once})
    seconds = [each.p50_ms / 1e3 for each in found.measured[OURS]]
    return Outcome(
        found.rows(),
        [
            Aim(case=found.case, what="seconds", values=seconds, limit=_START_S, kind="at most", unit=" s"),
            Aim(case=found.case, what="idle: share of a core", values=[_idle()], limit=_IDLE_SHARE, kind="at most"),
        ],
    )


def _once() -> Measured:
    begun = time.perf_counter()
    with processes.hiddenstate(_MODELS) as server, Client(server.address) as client:
        client.predict("the state of the")
        seconds = time.perf_counter() - begun
    return Measured(per_s=1 / seconds, p50_ms=seconds * 1e3, p99_ms=seconds * 1e3, count=1)


def _idle() -> float:
    """Returns the share of a core that a server uses a while after its last call."""
    with ExitStack() as stack:
        server = stack.enter_context(processes.hiddenstate(_MODELS))
        with Client(server.address) as client:
            client.predict("the state of the")
        time.sleep(1.0)
        before, begun = thread_times(server.pid), time.perf_counter()
        time.sleep(_IDLE_S)
        return sum(used(before, thread_times(server.pid)).values()) / (time.perf_counter() - begun)
