"""Rows of a benchmark as a Markdown table, as a picture, and as a section of a page."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cases import BOUND, Row

_HEAD = (
    "| case | contender | per second | of the bound | median ms | p99 ms | server \u00b5s | load \u00b5s | |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|---|"
)
_SHOWN_SHARE = 0.002  # of a core: threads below are left out


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a Markdown table; what is `of the bound` is so within one case and one run."""
    lines = [_HEAD]
    for case, group in itertools.groupby(rows, key=lambda row: row.case):
        contenders = list(group)
        bound = _bound(contenders)
        for first, row in zip([case, *[""] * len(contenders)], contenders, strict=False):
            share = f"{row.per_s / bound:.2f}" if bound else ""
            numbers = f"{_number(row.per_s)} | {share} | {_number(row.p50_ms)} | {_number(row.p99_ms)}"
            cpu = f"{_per_answer(row.server_cpu_s, row)} | {_per_answer(row.load_cpu_s, row)}"
            lines.append(f"| {first} | {row.contender} | {numbers} | {cpu} | {row.note} |")
    return "\n".join(lines)


def threads(rows: Sequence[Row]) -> str:
    """Returns a table of the processor time of server and load by thread: the share of a core, and for each answer."""
    lines = ["| case | contender | process | thread | of a core | \u00b5s an answer |", "|---|---|---|---|--:|--:|"]
    for row in rows:
        for process, seconds in (("server", row.server_cpu_s), ("load", row.load_cpu_s)):
            busiest = sorted(seconds.items(), key=lambda item: -item[1])
            for thread, used in [("all", sum(seconds.values())), *busiest] if seconds else []:
                share = used / row.wall_s
                if share >= _SHOWN_SHARE:
                    each = 1e6 * used / max(1, row.answers)
                    lines.append(f"| {row.case} | {row.contender} | {process} | {thread} | {share:.3f} | {each:,.1f} |")
    return "\n".join(lines)


def picture(rows: Sequence[Row], path: Path) -> None:
    """Draws rates as shares of each case's bound."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row, bound in _with_bound(rows) if bound and not row.contender.startswith(BOUND)]
    bounds = [bound for row, bound in _with_bound(rows) if bound and not row.contender.startswith(BOUND)]
    figure, axes = pyplot.subplots(figsize=(9, 0.4 * len(shown) + 1.2), layout="constrained")
    names = [f"{row.case}: {row.contender}" for row in shown]
    colors = ["tab:gray" if "limit" in row.contender else "tab:blue" for row in shown]
    bars = axes.barh(names, [min(1.5, row.per_s / bound) for row, bound in zip(shown, bounds, strict=True)])
    for bar, row, color in zip(bars, shown, colors, strict=True):
        bar.set_color(color)
        axes.text(bar.get_width(), bar.get_y() + bar.get_height() / 2, f" {row.per_s:,.0f}/s", va="center", fontsize=8)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlim(0, 1.8)
    axes.invert_yaxis()
    axes.set_xlabel("share of the in-process bound (cut at 1.5)")
    figure.savefig(path, dpi=120)


def replace_section(page: Path, name: str, text: str) -> None:
    """Writes a section of a page between its marks, at the page's end if it has none yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    pattern = re.compile(re.escape(begin) + ".*" + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda _: section, old) if pattern.search(old) else f"{old.rstrip()}\n\n{section}\n"
    page.write_text(new, encoding="utf-8")


def _bound(rows: Sequence[Row]) -> float | None:
    return next((row.per_s for row in rows if row.contender.startswith(BOUND)), None)


def _with_bound(rows: Sequence[Row]) -> list[tuple[Row, float | None]]:
    groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.case)]
    return [(row, _bound(group)) for group in groups for row in group]


def _per_answer(seconds: Mapping[str, float], row: Row) -> str:
    return _number(1e6 * sum(seconds.values()) / row.answers) if seconds and row.answers else ""


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
