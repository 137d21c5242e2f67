"""Draws what `gradient_flow` and `gates` measured, and writes the numbers beside it."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from hiddenstate_exporter.inspection.gates import SentenceGates
from hiddenstate_exporter.inspection.gradient_flow import Flow, to_rows

COLORS: Final = {"rnn": "#d6604d", "lstm": "#2166ac", "gru": "#1b9e77"}
LINES: Final = {"none": "-", "residual": "--", "highway": "-.", "dense": ":"}
SMALLEST: Final = 1e-30  # norm that is drawn
NEAR: Final = 20  # tokens
SIDE_BY_SIDE: Final = 10  # words; gates over more of them are drawn one below the other
DECIMALS: Final = 4


def write_flows(flows: Sequence[Flow], title: str, folder: Path) -> None:
    """Writes gradient_flow.png, .csv and .json into a folder."""
    with (folder / "gradient_flow.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(to_rows(flows))
    content = [
        {"name": f.name, "cell": f.cell, "connections": f.connections, "reach": f.reach, "norms": f.norms.tolist()}
        for f in flows
    ]
    (folder / "gradient_flow.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _draw_flows(flows, title, folder / "gradient_flow.png")


def write_gates(gates: SentenceGates, folder: Path) -> None:
    """Writes gates.png, gates.csv (mean and quantiles over the units) and gates.json (every unit) into a folder."""
    with (folder / "gates.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_gate_rows(gates))
    content = {
        "model": gates.model,
        "cell": gates.cell,
        "words": gates.words,
        "layers": [
            {"name": layer.name, **{name: values.round(DECIMALS).tolist() for name, values in layer.gates.items()}}
            for layer in gates.layers
        ],
    }
    (folder / "gates.json").write_text(json.dumps(content, default=float) + "\n", encoding="utf-8")
    _draw_gates(gates, folder / "gates.png")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _draw_flows(flows: Sequence[Flow], title: str, path: Path) -> None:
    """Norms over the distance, logarithmic; colours are cells, dashes are connections. The first tokens on the left."""
    pyplot = _pyplot()
    figure, (near, far) = pyplot.subplots(1, 2, figsize=(12, 5.2), width_ratios=[1, 1.9], layout="constrained")
    for axes, end in ((near, min(NEAR, len(flows[0].norms) - 1)), (far, len(flows[0].norms) - 1)):
        lowest = 1.0
        for number, flow in enumerate(flows):
            color = COLORS[flow.cell] if _told_apart(flows) else f"C{number}"
            norms = np.where(flow.norms >= SMALLEST, flow.norms, np.nan)[: end + 1]
            axes.plot(norms, color=color, linestyle=LINES[flow.connections], linewidth=1.7, label=flow.name)
            lowest = min(lowest, float(np.nanmin(norms)))
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(lowest / 3, SMALLEST))
        axes.set_xlim(0, end)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("distance k, in tokens back", fontsize=9)
    near.set_ylabel("norm of the gradient at that token")
    near.set_title("near: what the depth of the stack does", fontsize=10)
    far.set_title("far: what time does", fontsize=10)
    figure.suptitle(title, fontsize=11)
    figure.legend(*far.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _told_apart(flows: Sequence[Flow]) -> bool:
    return len({(flow.cell, flow.connections) for flow in flows}) == len(flows)


def _gate_rows(gates: SentenceGates) -> Iterable[tuple[str, ...]]:
    yield ("position", "word", "layer", "gate", "mean", "p10", "p50", "p90")
    for layer in gates.layers:
        for gate, values in layer.gates.items():
            for position, word in enumerate(gates.words):
                units = values[position]
                numbers = (units.mean(), *np.quantile(units, (0.1, 0.5, 0.9)))
                yield (str(position), word, layer.name, gate, *(f"{number:.{DECIMALS}f}" for number in numbers))


def _draw_gates(gates: SentenceGates, path: Path) -> None:
    """A panel for each gate of each layer: words across, units down, sorted by their mean."""
    pyplot = _pyplot()
    drawn = [(layer, gate) for layer in gates.layers for gate in layer.gates]
    columns = len(gates.layers[0].gates) if len(gates.words) <= SIDE_BY_SIDE else 1
    rows = len(drawn) // columns
    size = (columns * max(3.2, 0.4 * len(gates.words) + 1.0) + 1.0, rows * (2.7 if columns > 1 else 1.9) + 1.2)
    figure, panels = pyplot.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for axes, (layer, gate) in zip(panels.flat, drawn, strict=True):
        values = layer.gates[gate]  # [words, units]
        ordered = values[:, np.argsort(-values.mean(axis=0))].T
        image = axes.imshow(ordered, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        axes.set_title(f"{layer.name}, {gate} gate: mean {values.mean():.2f}", fontsize=9)
        axes.set_yticks([])
        if axes in panels[:, 0]:
            axes.set_ylabel(f"{values.shape[1]} units, sorted", fontsize=8)
    for axes in panels[-1]:
        axes.set_xticks(range(len(gates.words)), gates.words)
        axes.tick_params(axis="x", labelsize=9, rotation=60)
        pyplot.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    bar = figure.colorbar(image, ax=panels, fraction=0.02, pad=0.01, shrink=min(1.0, 5.0 / size[1]))
    bar.set_label("0: shut, 1: open", fontsize=8)
    figure.suptitle(f"gates of {gates.model} over the words it reads", fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
