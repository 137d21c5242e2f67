"""What was run of a model and how long it took, as the protocol's ModelStatistics tells it."""

import dataclasses
import threading
import time


@dataclasses.dataclass(slots=True)
class Duration:
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Counts one more (or `count` that took `ns` together)."""
        self.count += count
        self.ns += ns


@dataclasses.dataclass(slots=True)
class ComputeDurations:
    """The parts of a run: inputs put together, the model itself, outputs taken apart."""

    compute_input: Duration = dataclasses.field(default_factory=Duration)
    compute_infer: Duration = dataclasses.field(default_factory=Duration)
    compute_output: Duration = dataclasses.field(default_factory=Duration)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """How long the parts of one run took, in ns."""

    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    @property
    def total_ns(self) -> int:
        """All parts together."""
        return self.input_ns + self.infer_ns + self.output_ns


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Statistics at one moment. Counts in `success`, `fail`, `queue` and `compute` are of calls."""

    last_inference_ms: int  # since 1970; 0 before the first
    inference_count: int  # rows
    execution_count: int  # runs of the model
    success: Duration
    fail: Duration
    queue: Duration
    compute: ComputeDurations
    batches: dict[int, ComputeDurations]  # of runs, by their number of rows


class Statistics:
    """Counts calls and runs of one model. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a call ends on the event loop, a run on the model's own thread
        self._last_inference_ms = 0
        self._inference_count = 0
        self._execution_count = 0
        self._success = Duration()
        self._fail = Duration()
        self._queue = Duration()
        self._compute = ComputeDurations()
        self._batches: dict[int, ComputeDurations] = {}

    def executed(self, *, rows: int, times: RunTimes) -> None:
        """Counts one run of the model, which may have served several calls."""
        with self._lock:
            self._execution_count += 1
            _add(self._batches.setdefault(rows, ComputeDurations()), times)

    def succeeded(self, *, rows: int, total_ns: int, queue_ns: int, times: RunTimes) -> None:
        """Counts one call that was answered; it took `total_ns`, of which it waited `queue_ns` for the model."""
        with self._lock:
            self._last_inference_ms = time.time_ns() // 1_000_000
            self._inference_count += rows
            self._success.add(total_ns)
            self._queue.add(queue_ns)
            _add(self._compute, times)

    def failed(self, *, total_ns: int) -> None:
        """Counts one call that was refused or failed."""
        with self._lock:
            self._fail.add(total_ns)

    def snapshot(self) -> Snapshot:
        """Returns a copy."""
        with self._lock:
            return Snapshot(
                last_inference_ms=self._last_inference_ms,
                inference_count=self._inference_count,
                execution_count=self._execution_count,
                success=dataclasses.replace(self._success),
                fail=dataclasses.replace(self._fail),
                queue=dataclasses.replace(self._queue),
                compute=_copy(self._compute),
                batches={rows: _copy(durations) for rows, durations in sorted(self._batches.items())},
            )


def _add(durations: ComputeDurations, times: RunTimes) -> None:
    durations.compute_input.add(times.input_ns)
    durations.compute_infer.add(times.infer_ns)
    durations.compute_output.add(times.output_ns)


def _copy(durations: ComputeDurations) -> ComputeDurations:
    return ComputeDurations(
        dataclasses.replace(durations.compute_input),
        dataclasses.replace(durations.compute_infer),
        dataclasses.replace(durations.compute_output),
    )
