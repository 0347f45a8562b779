"""Wavelet signatures, against the formulas of the paper written out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline_lib.baselines.wavelet import SIDE, WEIGHTS, bins, haar, scores, signatures
from tests.conftest import scene

KEPT = 40


def basis(number: int, length: int) -> NDArray[np.float64]:
    """The Haar wavelet of a coefficient, of length 1: over all for 0, then of halves, quarters and so on."""
    if number == 0:
        return np.full(length, 1 / np.sqrt(length))
    level = int(np.log2(number))
    width = length >> level
    start = (number - (1 << level)) * width
    found = np.zeros(length)
    found[start : start + width // 2], found[start + width // 2 : start + width] = 1, -1
    return np.asarray(found / np.sqrt(width))


def test_coefficients_are_products_with_haars_wavelets() -> None:
    values = np.random.default_rng(0).random((16, 16), np.float32)
    wavelets = np.stack([basis(number, 16) for number in range(16)])
    expected = wavelets @ values @ wavelets.T / 16
    np.testing.assert_allclose(haar(values), expected, atol=1e-6)
    assert haar(values)[0, 0] == pytest.approx(values.mean(), abs=1e-6)


def test_the_signs_of_the_largest_coefficients_are_kept() -> None:
    found = signatures([scene(1), np.full((50, 60), 255, np.uint8)], KEPT)
    assert (np.abs(found.signs[0]).sum(axis=1) == KEPT).all()
    assert not found.signs[1].any()  # a blank page has a mean and nothing else
    np.testing.assert_allclose(found.means[1], [1, 0, 0], atol=1e-3)


def test_scores_are_those_of_the_papers_equation() -> None:
    drawings, photos = signatures([scene(1), scene(2)], KEPT), signatures([scene(n) for n in range(4)], KEPT)
    weights = WEIGHTS[bins()]
    assert weights[5 * SIDE + 1].tolist() == WEIGHTS[5].tolist()
    assert weights[SIDE + 2].tolist() == WEIGHTS[2].tolist()
    expected = np.zeros((2, 4))
    for m in range(2):
        for n in range(4):
            for c in range(3):
                mine, other = drawings.signs[m, c], photos.signs[n, c]
                agree = (mine != 0) & (mine == other)
                distance = WEIGHTS[0, c] * abs(drawings.means[m, c] - photos.means[n, c]) - weights[agree, c].sum()
                expected[m, n] -= distance
    found = scores(drawings, photos)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.argmax(axis=1).tolist() == [1, 2]
