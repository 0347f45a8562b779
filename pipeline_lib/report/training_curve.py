"""Loss and accuracy of the pretext task, epoch by epoch."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from pipeline_lib.errors import PipelineError
from pipeline_lib.report.canvas import WIDTH, Pixels, note

COLUMNS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
TRAIN, VAL = "#0072b2", "#d55e00"
CHANCE = 1 / 8
DPI = 100


def read_history(path: Path) -> pd.DataFrame:
    """Reads `training.csv`, one row per epoch.

    Raises:
        PipelineError: the file is missing, no table, or lacks a column.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as failure:
        raise PipelineError(f"{path}: can't be read ({failure}); run `dvc repro train` again") from failure
    missing = set(COLUMNS) - set(table.columns)
    if missing:
        raise PipelineError(f"{path}: lacks the columns {sorted(missing)}; run `dvc repro train` again")
    return table


def training_curve(history: pd.DataFrame) -> Pixels:
    """Draws loss and accuracy side by side, training and held-out images apart.

    Args:
        history: columns as in COLUMNS, a row per epoch; without any, the picture is a note that says so.

    Returns:
        uint8[H, WIDTH, 3], RGB.
    """
    if history.empty:
        return note("No finished epoch, so no curve to show.")
    figure = Figure(figsize=(WIDTH / DPI, 4.2), dpi=DPI, layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, colour, words in (("train", TRAIN, "training"), ("val", VAL, "held out")):
            marker = "o" if len(history) < 3 else ""
            axes.plot(history["epoch"], history[f"{part}_{what}"], colour, marker=marker, linewidth=2, label=words)
        axes.set_xlabel("epoch")
        axes.set_title(f"pretext {what}", loc="left", fontsize=12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e4e4")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if what == "accuracy":
            axes.axhline(CHANCE, color="#8a8a8a", linestyle="--", linewidth=1.2, label="chance")
            axes.set_ylim(0, 1)
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    # Saved through the figure itself: pyplot would keep global state.
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return np.asarray(Image.open(buffer).convert("RGB"))
