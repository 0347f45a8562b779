"""What is shown of a drawing and of a photo before it is embedded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.framing import INK, MARGIN, around_ink, li_figures, middle, padded, split
from pipeline_lib.data.li2014 import SOURCE_CLASSES
from pipeline_lib.evaluation.li_score import KS
from tests.conftest import scene


@given(
    size=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    corner=st.tuples(st.floats(0, 0.7), st.floats(0, 0.7)),
    extent=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    colour=st.booleans(),
)
def test_a_drawing_is_cut_to_a_square_that_holds_all_its_ink_in_the_middle(
    size: tuple[int, int], corner: tuple[float, float], extent: tuple[int, int], colour: bool
) -> None:
    sketch = np.full(size, 255, np.uint8)
    y, x = (int(share * side) for share, side in zip(corner, size, strict=True))
    sketch[y : y + extent[0], x : x + extent[1]] = 0
    ink = int((sketch < INK).sum())
    found = around_ink(np.repeat(sketch[..., None], 3, axis=2) if colour else sketch)
    grey = found[..., 0] if colour else found
    assert grey.shape[0] == grey.shape[1]
    assert int((grey < INK).sum()) == ink
    rows, columns = np.nonzero(grey < INK)
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    assert len(grey) == round(longer * (1 + 2 * MARGIN))
    for places in (rows, columns):
        before, after = places.min(), len(grey) - 1 - places.max()
        assert abs(int(before) - int(after)) <= 1


def test_a_drawing_without_ink_stays_whole() -> None:
    empty = np.full((40, 60), 255, np.uint8)
    assert np.array_equal(around_ink(empty), empty)


@pytest.mark.parametrize("size", [(180, 220), (220, 180), (100, 101), (64, 64)])
def test_a_padded_photo_is_square_and_keeps_every_pixel(size: tuple[int, int]) -> None:
    photo = scene(3, size)
    found = padded(photo)
    assert found.shape == (max(size), max(size), 3)
    y, x = ((max(size) - side) // 2 for side in size)
    assert np.array_equal(found[y : y + size[0], x : x + size[1]], photo)


def test_the_middle_of_a_photo_has_its_shape_and_centre() -> None:
    photo = scene(3, (200, 100))
    found = middle(photo)
    assert found.shape == (140, 70, 3)
    assert np.array_equal(found, photo[30:170, 15:85])


def test_the_classes_that_the_source_does_not_report_are_apart_from_those_that_it_does() -> None:
    scores = {name: np.full((6, len(KS)), 20.0) for name in SOURCE_CLASSES} | {"boat": np.full((6, len(KS)), 8.0)}
    found = {ending: li_figures(some) for ending, some in split(scores).items()}
    assert found[""] | {"queries": 60, "li_score_at_5": 20.0} == found[""]
    assert found["_rest"] | {"queries": 6, "li_score_at_5": 8.0} == found["_rest"]
