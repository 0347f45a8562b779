"""Charts of the study and of the ablation."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline_lib.report.training_curve import CHANCE

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
PANELS = 3
"""At most this many side by side."""
LEVELS = ("none", "conv1", "conv2", "conv3", "conv4", "conv5")


def _plain(figure: Figure, grid: Literal["both", "y"] = "y") -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis=grid, color="#e4e4e4")
        axes.set_axisbelow(True)


def dots(table: pd.DataFrame, panels: Mapping[str, str], series: Sequence[str], reference: str | None = None) -> Figure:
    """A line per row of a table, a dot per series, the last of them with its 95 % interval.

    Args:
        table: columns name and series, and per figure its value (a fraction), low and high (`FIGURE_low`). Rows are
            shown from the top in the order of their names' first occurrence.
        panels: per figure the title of its panel; the panels stand side by side.
        series: values of the column series, the last one drawn black.
        reference: name of the row whose last dot a dashed line marks; None for no line.

    Returns:
        The figure; the caller saves it.
    """
    names = list(dict.fromkeys(table["name"]))
    height = {name: -number for number, name in enumerate(names)}
    figure = Figure(figsize=(1.5 + 4.0 * len(panels), 1.3 + 0.24 * len(names)), dpi=100, layout="constrained")
    for axes, (column, title) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for number, one in enumerate(series):
            rows = table[table["series"] == one]
            heights = [height[name] for name in rows["name"]]
            last = one == series[-1]
            colour = "#000000" if last else COLOURS[number]
            axes.scatter(100 * rows[column], heights, s=26, color=colour, label=one, zorder=3 if last else 2)
            if last:
                ends = 100 * rows[f"{column}_low"], 100 * rows[f"{column}_high"]
                axes.hlines(heights, *ends, color="#555555", linewidth=1.0, zorder=1)
                if reference is not None:
                    mark = 100 * float(rows.loc[rows["name"] == reference, column].iloc[0])
                    axes.axvline(mark, color="#8a8a8a", linestyle="--", linewidth=1.2, zorder=0)
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_yticks(list(height.values()), names)
        axes.set_ylim(0.7 - len(names), 0.7)
    if len(series) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(series), frameon=False)
    _plain(figure, "both")
    return figure


def levels(table: pd.DataFrame, panels: Mapping[str, str]) -> Figure:
    """Figures against the level of pretraining: a line per series, a dot per run, lines through the means of seeds.

    Args:
        table: columns series ("cross, BatchNorm"), pretrained (of LEVELS) and the figures, fractions.
        panels: as in `dots`.

    Returns:
        The figure; the caller saves it.
    """
    figure = Figure(figsize=(1.0 + 4.2 * len(panels), 4.4), dpi=100, layout="constrained")
    for axes, (column, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (name, rows) in enumerate(table.groupby("series", sort=False)):
            places = [LEVELS.index(level) for level in rows["pretrained"]]
            colour, style = COLOURS[number // 2], "-" if number % 2 == 0 else "--"
            axes.scatter(places, 100 * rows[column], s=14, color=colour)
            means = (100 * rows.groupby("pretrained")[column].mean()).reindex(LEVELS)
            axes.plot(range(len(LEVELS)), means, style, color=colour, linewidth=1.8, label=str(name))
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_xticks(range(len(LEVELS)), LEVELS)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    _plain(figure)
    return figure


def validation_curves(panels: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Accuracy on held-out photos, epoch by epoch.

    Args:
        panels: per panel's title and run's name its history (columns epoch and val_accuracy).

    Returns:
        The figure; the caller saves it.
    """
    count = max(1, len(panels))
    wide, tall = min(PANELS, count), math.ceil(count / PANELS)
    figure = Figure(figsize=(5.2 * wide, 4.0 * tall), dpi=100, layout="constrained")
    for place, (title, runs) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(tall, wide, place)
        for number, (name, history) in enumerate(runs.items()):
            style = "-" if number < len(COLOURS) else "--"
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(history["epoch"], 100 * history["val_accuracy"], style, color=colour, linewidth=1.8, label=name)
        axes.axhline(100 * CHANCE, color="#8a8a8a", linestyle=":", linewidth=1.2)
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_xlabel("epoch")
        axes.set_ylabel("held-out accuracy, %")
        axes.legend(frameon=False, fontsize=8)
    _plain(figure)
    return figure


def class_bars(systems: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
    """hit@5 per class, systems side by side, with intervals.

    Args:
        systems: per system's name and class (estimate, low, high), fractions.
        title: of the chart.
    """
    names = list(next(iter(systems.values())))
    figure = Figure(figsize=(1.0 + 1.0 * len(names), 4.0), dpi=100, layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(systems)
    for number, (system, found) in enumerate(systems.items()):
        values = 100 * np.array([found[name] for name in names], dtype=float)
        places = np.arange(len(names)) + (number - (len(systems) - 1) / 2) * width
        spread = np.abs(values[:, 1:].T - values[:, 0])
        axes.bar(places, values[:, 0], width, color=COLOURS[number], label=system)
        axes.errorbar(places, values[:, 0], yerr=spread, fmt="none", ecolor="#555555", elinewidth=0.8, capsize=1.5)
    axes.set_xticks(np.arange(len(names)), [name.replace("_", " ") for name in names], rotation=30, ha="right")
    axes.set_ylabel("hit@5, %")
    axes.set_title(title, loc="left", fontsize=12)
    axes.legend(frameon=False, ncols=len(systems))
    _plain(figure)
    return figure


def filters(kernels: Mapping[str, NDArray[np.float32]], columns: int = 16) -> Figure:
    """Filters of a first convolution, such as before and after training, each scaled to its own range.

    Args:
        kernels: per title float32[O, 3, k, k].
        columns: filters a row.
    """
    figure = Figure(figsize=(6.0 * len(kernels), 2.6), dpi=100, layout="constrained")
    for axes, (title, weights) in zip(figure.subplots(1, len(kernels), squeeze=False)[0], kernels.items()):  # noqa: B905
        axes.imshow(_mosaic(weights, columns), interpolation="nearest")
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_axis_off()
    return figure


def _mosaic(weights: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    count, _, side, _ = weights.shape
    rows = -(-count // columns)
    canvas = np.ones((rows * (side + 1), columns * (side + 1), 3), np.float32)
    for number, kernel in enumerate(weights):
        low, high = float(kernel.min()), float(kernel.max())
        tile = (kernel.transpose(1, 2, 0) - low) / max(high - low, 1e-12)
        y, x = divmod(number, columns)
        canvas[y * (side + 1) : y * (side + 1) + side, x * (side + 1) : x * (side + 1) + side] = tile
    return canvas


def carry_over(table: pd.DataFrame) -> Figure:
    """Pretext accuracy against retrieval, a point per run.

    Args:
        table: columns pretext_accuracy, instance_hit_at_5, class_hit_at_5, domain.
    """
    figure = Figure(figsize=(9.0, 3.8), dpi=100, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("instance_hit_at_5", "class_hit_at_5"), strict=True):
        for number, (domain, rows) in enumerate(table.groupby("domain")):
            colour = COLOURS[number]
            axes.scatter(100 * rows["pretext_accuracy"], 100 * rows[name], color=colour, label=str(domain))
        axes.set_xlabel("pretext accuracy, %")
        axes.set_ylabel(name.replace("_hit_at_5", " hit@5, %"))
        axes.legend(frameon=False)
    _plain(figure)
    return figure
