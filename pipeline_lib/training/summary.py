"""What is recorded of a training: figures of the pretext task with intervals over images, and the model's record."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_lib import params
from pipeline_lib.intervals import bootstrap_ratio
from pipeline_lib.pretext.batches import PairTable
from pipeline_lib.pretext.layout import DIRECTIONS
from pipeline_lib.training.loop import Trained
from pipeline_lib.training.streams import Predictions


def summarise(
    found: Predictions, table: PairTable, groups: NDArray[np.str_], resamples: int, seed: int
) -> dict[str, Any]:
    """Makes `model/pretext.json` out of predictions on held-out images.

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


def describe(trained: Trained, settings: params.Train, summary: Mapping[str, Any], data: str) -> dict[str, Any]:
    """What `model/meta.json` tells of a trained network.

    Args:
        trained: as `loop.train` gives it.
        settings: section `train`.
        summary: figures on held-out images, as `summarise` gives them.
        data: digest of the shards that it was trained on.
    """
    return {
        "architecture": f"{settings.encoder}, fc6 {settings.fc6}",
        "start_weights": trained.origin,
        "training_images": trained.images,
        "data_sha256": data,
        "accuracy": summary["accuracy"],
        "accuracy_ci95": summary["accuracy_ci95"],
        "precision": trained.precision,
        "device": trained.device,
        "threads": trained.threads,
        "processes": trained.processes,
        "seconds": round(trained.seconds, 1),
    }
