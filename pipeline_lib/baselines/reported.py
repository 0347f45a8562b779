"""Figures that others published, kept apart from everything measured here.

Source: A. Joshi, O. Sakhi, S. Velury, "Unsupervised Sketch-Based Image Retrieval using Cross-Domain Context Prediction"
(2019), its table of top-5 results. The table puts sums of human ratings on Li et al. 2014 (at most 40) beside
percentages of hits on Sketchy; the two can't be compared, so each stands with its own data set.
"""

from __future__ import annotations

from typing import NamedTuple


class Reported(NamedTuple):
    """A published figure and what it is."""

    value: float
    what: str


_LI = "ten classes, top 5"
_SKETCHY = "hits in the top 5 over the sketches of ten classes; protocol not stated"

REPORTED: dict[tuple[str, str], Reported] = {
    ("spatial_pyramid", "li2014"): Reported(11.88, f"11.88 ({_LI}; Li et al. 2014)"),
    ("li_dpm", "li2014"): Reported(18.57, f"18.57 ({_LI}; Li et al. 2014)"),
    ("li_dpm", "li2014_img"): Reported(18.57, f"18.57 ({_LI}; Li et al. 2014)"),
    ("triplet_alexnet", "li2014"): Reported(19.8, f"19.8 ({_LI}; Sangkloy et al. 2016, trained on all of Sketchy)"),
    ("alexnet_pool5", "sketchy"): Reported(12.53, f"12.53 % ({_SKETCHY}; the source)"),
    ("voc-sketchy", "sketchy"): Reported(12.87, f"12.87 % ({_SKETCHY}; the source)"),
}
"""By row and data set."""
