"""What a benchmark found as Markdown tables, and as a section of a page."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.results import Aim, Row

_HEAD = (
    "| case | contender | per second | of the bound | median ms | p99 ms "
    "| server CPU µs | load CPU µs | load, cores | |\n|---|---|--:|--:|--:|--:|--:|--:|--:|---|"
)
_AIMS_HEAD = "| case | what | measured | rounds | aim | reached |\n|---|---|--:|--:|--:|---|"
_THREADS_HEAD = "| case | contender | process | thread | cores | µs an answer |\n|---|---|---|---|--:|--:|"
_SHOWN_SHARE = 0.002  # of a core: threads below are left out


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as a table; processor time is for each answer, of all threads together."""
    lines = [_HEAD]
    for case, group in itertools.groupby(rows, key=lambda row: row.case):
        for first, row in zip(itertools.chain([case], itertools.repeat("")), group, strict=False):
            numbers = [row.per_s, row.share, row.p50_ms, row.p99_ms]
            numbers += [
                _per_answer(row.server_cpu_s, row),
                _per_answer(row.load_cpu_s, row),
                _cores(row.load_cpu_s, row),
            ]
            cells = [first, row.contender, *map(number, numbers), row.note]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def aims_table(aims: Sequence[Aim]) -> str:
    """Returns the aims as a table: the median over the rounds, and the rounds' least and greatest."""
    lines = [_AIMS_HEAD]
    for aim in aims:
        measured = f"{number(aim.value)}{aim.unit}"
        rounds = f"{number(min(aim.values))} to {number(max(aim.values))}" if len(aim.values) > 1 else ""
        limit = f"{aim.kind} {aim.limit:,g}{aim.unit}"
        lines.append(
            f"| {aim.case} | {aim.what} | {measured} | {rounds} | {limit} | {'yes' if aim.reached else 'no'} |"
        )
    return "\n".join(lines)


def threads_table(rows: Sequence[Row]) -> str:
    """Returns the processor time of server and load by thread: how many cores it fills, and for each answer."""
    lines = [_THREADS_HEAD]
    for row in rows:
        for process, seconds in (("server", row.server_cpu_s), ("load", row.load_cpu_s)):
            busiest = sorted(seconds.items(), key=lambda item: -item[1])
            for thread, used in [("all", sum(seconds.values())), *busiest] if seconds else []:
                if used / row.wall_s >= _SHOWN_SHARE:
                    each = 1e6 * used / max(1, row.answers)
                    cells = [row.case, row.contender, process, thread, f"{used / row.wall_s:.3f}", f"{each:,.1f}"]
                    lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def replace_section(page: Path, name: str, text: str) -> None:
    """Writes a section of a page between its marks, at the page's end if it has none yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    pattern = re.compile(re.escape(begin) + ".*" + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda _: section, old) if pattern.search(old) else f"{old.rstrip()}\n\n{section}\n"
    page.write_text(new, encoding="utf-8")


def number(value: float) -> str:
    """Returns a number with as many digits as are worth reading; nothing for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"


def _per_answer(seconds: Mapping[str, float], row: Row) -> float:
    return 1e6 * sum(seconds.values()) / row.answers if seconds and row.answers else math.nan


def _cores(seconds: Mapping[str, float], row: Row) -> float:
    return sum(seconds.values()) / row.wall_s if seconds and row.wall_s else math.nan
