"""One picture of a benchmark: rates beside their bounds and aims, and how near every other aim is."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import number
from benchmarks.results import BOUND, LIMIT, OURS, Aim, Row

_REACHED, _MISSED, _NO_AIM, _PEER, _TICK = "#2166ac", "#d6604d", "#92c5de", "#b8b8b8", "black"
_LEGEND = (
    (_REACHED, "aim reached"),
    (_MISSED, "aim missed"),
    (_NO_AIM, "hiddenstate, no aim of its own"),
    (_PEER, "other servers"),
)
_BAR = 0.27  # inches
_SPACE, _LABEL = 0.013, 0.25  # before a label, and how long one is about, in units of the axis
_CUT = 1.6  # of an aim: what is better is cut there


def picture(rows: Sequence[Row], aims: Sequence[Aim], title: str, path: Path) -> None:
    """Draws rates as shares of each case's bound above, all other aims below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = _cases(rows)
    others = [aim for aim in aims if not aim.contender]
    heights = [max(1, sum(len(group) + 1.2 for group in cases.values())), max(1, 1.0 * len(others))]
    figure, (above, below) = pyplot.subplots(
        2, figsize=(10, _BAR * sum(heights) + 2.2), height_ratios=heights, layout="constrained"
    )
    figure.suptitle(title, fontsize=11)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=color) for color, _ in _LEGEND]
    figure.legend(handles, [name for _, name in _LEGEND], loc="outside lower center", ncols=len(_LEGEND), fontsize=8)
    _rates(above, cases, {(aim.case, aim.contender): aim for aim in aims if aim.contender})
    _others(below, others)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _cases(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    """Returns the rows that have a bound and are not one."""
    shown = [row for row in rows if row.share == row.share and not row.contender.startswith((BOUND, LIMIT))]
    return {case: list(group) for case, group in itertools.groupby(shown, key=lambda row: row.case)}


def _rates(axes: Any, cases: Mapping[str, list[Row]], aims: Mapping[tuple[str, str], Aim]) -> None:
    at = 0.0
    names: list[tuple[float, str]] = []
    for case, rows in cases.items():
        axes.text(0.004, at, case, fontsize=9, fontweight="bold", va="center")
        at += 1
        for row in rows:
            aim = aims.get((case, row.contender))
            axes.barh(at, row.share, height=0.8, color=_color(row, aim))
            axes.text(
                _beside(row.share, aim.limit if aim else 0.0),
                at,
                f"{row.share:.2f}   {number(row.per_s)}/s",
                va="center",
                fontsize=8,
            )
            if aim:
                axes.plot([aim.limit] * 2, [at - 0.5, at + 0.5], color=_TICK, linewidth=2.5)
            names.append((at, row.contender))
            at += 1
        at += 0.2
    axes.set_yticks([place for place, _ in names], [name for _, name in names], fontsize=8)
    axes.axvline(1.0, color=_TICK, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 1.2)
    axes.set_ylim(at, -0.8)
    axes.set_xlabel("rate, as a share of the same graph in a loop without a server (tick: aim)", fontsize=9)


def _beside(length: float, tick: float) -> float:
    """Returns where a bar's label begins: after the bar, and not across a tick."""
    start = length + _SPACE
    return tick + _SPACE if start - _SPACE < tick < start + _LABEL else start


def _color(row: Row, aim: Aim | None) -> str:
    if aim:
        return _REACHED if aim.reached else _MISSED
    return _NO_AIM if row.contender.startswith(OURS) else _PEER


def _others(axes: Any, aims: Sequence[Aim]) -> None:
    for at, aim in enumerate(aims):
        length = min(_CUT, aim.closeness)
        axes.barh(at, length, height=0.8, color=_REACHED if aim.reached else _MISSED)
        limit = f"{aim.kind} {aim.limit:,g}{aim.unit}"
        axes.text(_beside(length, 1.0), at, f"{number(aim.value)}{aim.unit}  ({limit})", va="center", fontsize=8)
    axes.set_yticks(range(len(aims)), [f"{aim.case}\n{aim.what}" for aim in aims], fontsize=7)
    axes.axvline(1.0, color=_TICK, linewidth=2.5)
    axes.set_xlim(0, _CUT + 0.75)
    axes.set_xticks([])
    axes.set_ylim(len(aims) - 0.4, -0.6)
    axes.set_xlabel(f"other aims: past the line is reached (cut at {_CUT} times as good)", fontsize=9)
