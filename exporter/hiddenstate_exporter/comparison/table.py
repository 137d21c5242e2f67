"""A comparison as a table and as a picture."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.table import Table

from hiddenstate_exporter.comparison.recommendation import Recommendation
from hiddenstate_exporter.comparison.result import Result

Column = tuple[str, Callable[[Result], float], str, bool]  # title, value, form, whether more is better

COLUMNS: Final[Sequence[Column]] = (
    ("perplexity", lambda result: result.perplexity, "{:.2f}", False),
    ("training, tokens/s", lambda result: result.tokens_per_s, "{:,.0f}", True),
    ("serving, ms/token", lambda result: result.ms_per_token, "{:.3f}", False),
    ("bundle, MB", lambda result: result.bundle_bytes / 1e6, "{:.2f}", False),
    ("parameters, millions", lambda result: result.parameters / 1e6, "{:.3f}", False),
)
TAKEN, OTHER, EDGE = "#2166ac", "#b8c4d0", "#d6604d"


def make_table(results: Sequence[Result], recommendation: Recommendation) -> Table:
    """Makes the table for a terminal; the one to take is marked, if there is one."""
    titles = ("ppl", "train tok/s", "ms/token", "MB", "params, M")
    caption = "* take this" if recommendation.name else "nothing to recommend: the budget was too small to tell"
    table = Table("", "width", *titles, "epochs", caption=caption, box=SIMPLE, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap, table.columns[0].overflow = True, "fold"
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results:
        mark = " *" if result.name == recommendation.name else ""
        cells = [form.format(value(result)) for _, value, form, _ in COLUMNS]
        table.add_row(result.name + mark, str(result.hidden_size), *cells, f"{result.epochs:.2f}")
    return table


def draw_table(results: Sequence[Result], recommendation: Recommendation, path: Path) -> None:
    """Draws a PNG: a panel for each column, a bar for each contender; the best of each has a red edge."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(COLUMNS), figsize=(13, 1.5 + 0.42 * len(results)), sharey=True, layout="constrained"
    )
    for axes, column in zip(panels, COLUMNS, strict=True):
        _panel(axes, results, recommendation, column)
    panels[0].set_yticks(range(len(results)), [f"{r.name}  {r.hidden_size}" for r in results])
    panels[0].invert_yaxis()
    figure.suptitle(textwrap.fill(str(recommendation), 120), fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axes: Any, results: Sequence[Result], recommendation: Recommendation, column: Column) -> None:
    title, value, form, more_is_better = column
    values = [value(result) for result in results]
    best = (max if more_is_better else min)(values)
    alike = max(values) - min(values) < 0.02 * max(values)
    for row, (result, number) in enumerate(zip(results, values, strict=True)):
        color = TAKEN if result.name == recommendation.name else OTHER
        edge = EDGE if number == best and not alike else color
        axes.barh(row, number, height=0.7, color=color, edgecolor=edge, linewidth=1.8)
        axes.text(number, row, f" {form.format(number)}", va="center", fontsize=8.5)
    arrow = "more is better" if more_is_better else "less is better"
    axes.set_title(title if title.startswith("parameters") else f"{title}\n({arrow})", fontsize=9)
    axes.set_xlim(0, max(values) * 1.38)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
