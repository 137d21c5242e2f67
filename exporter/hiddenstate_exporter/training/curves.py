"""Draws the curves of a run: loss and validation, learning rate, over the epochs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAIN, VALID, BEST = "#6b7280", "#2166ac", "#d6604d"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the validations of a `log.jsonl`; a last line that was cut off is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def draw_curves(log: Sequence[dict[str, Any]], metric: str, path: Path) -> None:
    """Draws a PNG of a run's log; nothing without a validation. Perplexities stand on a logarithmic axis."""
    if not log:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    epochs, valid = [line["epoch"] for line in log], [line[f"valid_{metric}"] for line in log]
    figure, (above, below) = pyplot.subplots(
        2, figsize=(8, 5.2), height_ratios=[3, 1], sharex=True, layout="constrained"
    )
    marker = "o" if len(log) < 40 else None
    train = [line["train_loss"] for line in log]
    if metric == "perplexity":
        train = [math.exp(min(loss, 50.0)) for loss in train]
        above.set_yscale("log")
        _plain_ticks(above.yaxis)
    above.plot(epochs, train, color=TRAIN, marker=marker, markersize=3, label="training, as regularised")
    above.plot(epochs, valid, color=VALID, marker=marker, markersize=3, label="validation")
    best = min(range(len(log)), key=lambda i: valid[i])
    above.plot(
        epochs[best],
        valid[best],
        "o",
        color=BEST,
        markersize=5,
        label=f"best: {valid[best]:.4g}, epoch {epochs[best]:.4g}",
    )
    above.set_ylabel(metric.replace("_", " "))
    above.legend(frameon=False)
    below.plot(epochs, [line["lr"] for line in log], color=TRAIN, marker=marker, markersize=3)
    below.set_ylabel("learning rate")
    below.set_ylim(bottom=0)
    below.set_xlabel("epoch")
    below.set_xlim(left=0)
    for axes in (above, below):
        axes.grid(alpha=0.25, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _plain_ticks(axis: Any) -> None:
    """Writes 80 and 200 on a logarithmic axis, not 8x10^1."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
