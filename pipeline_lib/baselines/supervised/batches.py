"""Batches of photos with some of their sketches; a batch is a function of seed, epoch and place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.baselines.supervised.pixels import Pixels
from pipeline_lib.baselines.supervised.recipe import Recipe
from pipeline_lib.data.randomness import generator_for

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Images of a step, moved and mirrored.

    Attributes:
        photos: uint8[P, size, size, 3].
        sketches: uint8[S, size, size].
        drawn: int64[S], which of the P photos each sketch depicts.
        photo_classes: int64[P].
    """

    photos: NDArray[np.uint8]
    sketches: NDArray[np.uint8]
    drawn: Rows
    photo_classes: Rows


@dataclass(frozen=True)
class PairBatches:
    """Training photos and their sketches.

    Attributes:
        photos: N photos; each has at least one sketch.
        sketches: of the photos.
        drawn: int64, the photo's row of each sketch.
        classes: int64[N].
        recipe: sizes and augmentation.
    """

    photos: Pixels
    sketches: Pixels
    drawn: Rows
    classes: Rows
    recipe: Recipe

    @property
    def steps(self) -> int:
        """Of an epoch; photos that fill no batch wait for another order."""
        return len(self.photos.image_ids) // self.recipe.photos

    def order(self, epoch: int) -> Rows:
        """The photos of an epoch in order: at random, but some of one class together."""
        rng = generator_for(self.recipe.seed, "order", epoch)
        groups: list[Rows] = []
        for label in np.unique(self.classes):
            members = rng.permutation(np.flatnonzero(self.classes == label))
            groups += [
                members[start : start + self.recipe.same_class]
                for start in range(0, len(members), self.recipe.same_class)
            ]
        return np.concatenate([groups[number] for number in rng.permutation(len(groups))])

    def batch(self, epoch: int, step: int) -> Batch:
        """Batch `step` of an epoch."""
        recipe = self.recipe
        rng = generator_for(recipe.seed, "batch", epoch, step)
        photos = self.order(epoch)[step * recipe.photos : (step + 1) * recipe.photos]
        sketches, drawn = [], []
        for place, photo in enumerate(photos):
            own = np.flatnonzero(self.drawn == photo)
            chosen = rng.permutation(own)[: recipe.sketches_each]
            sketches.append(chosen)
            drawn.append(np.full(len(chosen), place))
        rows, places = np.concatenate(sketches), np.concatenate(drawn)
        mirrored = rng.random(len(photos)) < 0.5
        return Batch(
            self._moved(self.photos.images[photos], mirrored, rng),
            self._moved(self.sketches.images[rows], mirrored[places], rng),
            places,
            self.classes[photos],
        )

    def _moved(
        self, images: NDArray[np.uint8], mirrored: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Mirrors some images and moves all; what comes in from outside repeats the border."""
        shift, size = self.recipe.shift, self.recipe.image_size
        result = np.empty_like(images)
        corners = rng.integers(0, 2 * shift + 1, (len(images), 2))
        margins = [(shift, shift), (shift, shift)] + [(0, 0)] * (images.ndim - 3)
        for number, (y, x) in enumerate(corners):
            image = images[number][:, ::-1] if mirrored[number] else images[number]
            result[number] = np.pad(image, margins, mode="edge")[y : y + size, x : x + size]
        return result
