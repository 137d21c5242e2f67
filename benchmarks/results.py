"""What a case found: rows with the medians of its contenders, and how far it is from its aims."""

import collections
import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from benchmarks.samples import TOLD_IN_TIME_S, Measured

BOUND = "in process"  # how the names of contenders begin that have no server
OURS = "hiddenstate"
LIMIT = "no model"  # of those that show what the load can do

NAN = float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A contender in a case: medians over the rounds."""

    case: str
    contender: str
    per_s: float
    share: float = NAN  # of the bound's rate: the median of the rounds' ratios
    p50_ms: float = NAN
    p99_ms: float = NAN
    note: str = ""
    answers: int = 0  # in all rounds, as what follows
    wall_s: float = 0.0
    server_cpu_s: Mapping[str, float] = dataclasses.field(default_factory=dict)  # by thread, as `load_cpu_s`
    load_cpu_s: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aim:
    """Something that a case has to reach."""

    case: str
    what: str
    contender: str = ""  # whose rate it is a share of the bound's of; empty where it is something else
    values: Sequence[float]  # of the rounds
    limit: float
    kind: Literal["at least", "at most"] = "at least"
    unit: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool:
        """Whether the median is within the limit."""
        return self.value >= self.limit if self.kind == "at least" else self.value <= self.limit

    @property
    def closeness(self) -> float:
        """How near it is: 1 at the limit, more where it is better than that."""
        if self.kind == "at least":
            return self.value / self.limit
        return self.limit / self.value if self.value > 0 else float("inf")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one case."""

    rows: Sequence[Row]
    aims: Sequence[Aim]


class Comparison:
    """Contenders of a case, each measured in every round."""

    def __init__(
        self, case: str, measured: Mapping[str, Sequence[Measured]], bounds: Mapping[str, str] | None = None
    ) -> None:
        """`bounds` names the bound of contenders whose bound is not the first there is."""
        self.case = case
        self.measured = measured
        self._bounds = bounds or {}

    def rows(self) -> list[Row]:
        """Returns the medians."""
        return [self._row(name, measured) for name, measured in self.measured.items()]

    def ratios(self, contender: str, to: str, field: str = "per_s") -> list[float]:
        """Returns the ratio of two contenders in each round."""
        both = zip(self.measured[contender], self.measured[to], strict=True)
        return [getattr(each, field) / getattr(other, field) for each, other in both]

    def at_least(self, limit: float, contender: str, to: str | None = None, what: str = "") -> Aim:
        """Returns an aim for the rate of a contender, as a multiple of another's; of its bound if none is named."""
        bound = self._bound(contender)
        other = to or bound
        return Aim(
            case=self.case,
            what=what or f"{contender}: rate, of {other}",
            contender=contender if to is None else "",
            values=self.ratios(contender, other),
            limit=limit,
            unit="x",
        )

    def at_most(self, limit: float, contender: str, to: str, field: Literal["p50_ms", "p99_ms"], what: str) -> Aim:
        """Returns an aim for a quantile of a contender's latency, as a multiple of another's."""
        values = self.ratios(contender, to, field)
        return Aim(case=self.case, what=what, values=values, limit=limit, kind="at most", unit="x")

    def _bound(self, contender: str) -> str:
        first = next((name for name in self.measured if name.startswith(BOUND)), "")
        return self._bounds.get(contender, first)

    def _row(self, contender: str, measured: Sequence[Measured]) -> Row:
        bound = self._bound(contender)
        return Row(
            case=self.case,
            contender=contender,
            per_s=_median(measured, "per_s"),
            share=statistics.median(self.ratios(contender, bound)) if bound else NAN,
            p50_ms=_median(measured, "p50_ms"),
            p99_ms=_median(measured, "p99_ms"),
            note=_note(measured),
            answers=sum(each.count for each in measured),
            wall_s=sum(each.wall_s for each in measured),
            server_cpu_s=_sum(each.server_cpu_s for each in measured),
            load_cpu_s=_sum(each.load_cpu_s for each in measured),
        )


def compare(
    case: str, contenders: Mapping[str, Callable[[], Measured]], rounds: int, bounds: Mapping[str, str] | None = None
) -> Comparison:
    """Measures contenders in turn, round after round."""
    found: dict[str, list[Measured]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            found[name].append(run())
    return Comparison(case, found, bounds)


def _note(measured: Sequence[Measured]) -> str:
    parts = collections.Counter(each.note for each in measured if each.note).most_common(1)
    notes = [note for note, _ in parts]
    if refused := sum(each.refused for each in measured):
        late = sum(each.refused_late for each in measured)
        p99 = _median(measured, "refused_p99_ms")
        notes.append(f"{refused:,} refused, p99 {p99:.0f} ms, {late:,} after {TOLD_IN_TIME_S * 1e3:.0f} ms")
    if too_late := sum(each.late for each in measured):
        notes.append(f"{too_late:,} answered when their callers had gone")
    if unanswered := sum(each.unanswered for each in measured):
        notes.append(f"{unanswered:,} never answered")
    if (behind := max(each.behind_p99_ms for each in measured)) > 0:
        notes.append(f"load at most {behind:.0f} ms behind (p99)")
    return "; ".join(notes)


def _median(measured: Sequence[Measured], field: str) -> float:
    return float(statistics.median(getattr(each, field) for each in measured))


def _sum(measured: Iterable[Mapping[str, float]]) -> dict[str, float]:
    return dict(sum(map(collections.Counter, measured), collections.Counter[str]()))
