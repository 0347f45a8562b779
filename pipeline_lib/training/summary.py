"""The figures of the pretext task: accuracy with intervals over images, per direction and per order of domains."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.intervals import bootstrap_ratio
from pipeline_lib.pretext.batches import PairTable
from pipeline_lib.pretext.layout import DIRECTIONS
from pipeline_lib.training.validation import Predictions


def summarise(
    found: Predictions, table: PairTable, groups: NDArray[np.str_], resamples: int, seed: int
) -> dict[str, Any]:
    """Makes `metrics/pretext.json` out of predictions on held-out images.

    Accuracy weighs pairs so that each direction counts the same; chance is 1/8. Intervals (95 %) resample groups of
    images that belong together, never single pairs.

    Args:
        found: predictions, a row per layout.
        table: directions, weights and domain order of the K pairs.
        groups: [N], the group of the image of each row.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
    """

    def accuracy(values: NDArray[np.float64], keep: NDArray[np.bool_]) -> tuple[float, list[float]]:
        weights = np.where(keep, table.weights, 0.0).astype(np.float64)
        right = (values * weights).sum(axis=1)
        interval = bootstrap_ratio(right, np.full(len(values), weights.sum()), groups, resamples, seed)
        return round(interval.estimate, 6), [round(interval.low, 6), round(interval.high, 6)]

    everything = np.ones(len(table.directions), np.bool_)
    correct, alone = found.correct.astype(np.float64), found.correct_one_patch.astype(np.float64)
    result: dict[str, Any] = {}
    for name, values in (
        ("accuracy", correct),
        ("accuracy_one_patch", alone),
        ("accuracy_gain_over_one_patch", correct - alone),
    ):
        result[name], result[f"{name}_ci95"] = accuracy(values, everything)
    result["chance"] = 0.125
    result["loss"] = round(found.loss, 6)
    result["per_direction"] = {
        name: accuracy(correct, table.directions == number)[0] for number, name in enumerate(DIRECTIONS)
    }
    orders = np.array(table.order)
    result["per_domain_order"] = {name: accuracy(correct, orders == name)[0] for name in sorted(set(table.order))}
    result["images"] = len(set(found.image_ids))
    result["layouts"] = len(found.image_ids)
    result["pairs"] = int(correct.size)
    return result
