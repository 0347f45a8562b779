from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.data import parts
from pipeline_lib.data.parts import cut

FEW = 4
names = st.lists(st.text(max_size=4), max_size=60, unique=True).map(sorted)


@pytest.fixture(autouse=True, scope="module")
def short_parts() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "ROWS", FEW)
        yield


@given(names)
def test_parts_are_the_list_and_none_is_empty(listed: list[str]) -> None:
    found = list(cut(listed, str))
    assert [name for part in found for name in part] == listed
    assert all(found)


@given(names, st.text(max_size=4))
def test_an_item_more_or_less_makes_two_parts_anew_at_most(listed: list[str], more: str) -> None:
    fewer, longer = (
        {tuple(part) for part in cut(each, str)} for each in (sorted({*listed} - {more}), sorted({*listed, more}))
    )
    assert len(longer - fewer) <= 2
    assert len(fewer - longer) <= 2


@given(names)
def test_items_of_one_name_that_follow_one_another_stay_together(listed: list[str]) -> None:
    twice = [name for name in listed for _ in range(2)]
    assert list(cut(twice, str)) == [[name for name in part for _ in range(2)] for part in cut(listed, str)]


def test_parts_have_the_rows_that_they_should_on_average() -> None:
    sizes = [len(part) for part in cut((f"photos/{number:06d}.jpg" for number in range(20_000)), str)]
    assert np.mean(sizes) == pytest.approx(FEW, rel=0.05)
    assert max(sizes) < FEW * np.log(20_000) * 1.5
