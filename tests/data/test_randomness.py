from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.data.randomness import held_out

PHOTOS = st.lists(st.tuples(st.integers(0, 40).map(str), st.sampled_from("abc")), max_size=60).map(
    lambda rows: [(f"{class_name}/{name}", class_name) for name, class_name in rows]
)


@given(PHOTOS, st.randoms(use_true_random=False))
def test_order_and_repeats_make_no_difference(photos: list[tuple[str, str]], rng: random.Random) -> None:
    again = [*photos, *photos[:5]]
    rng.shuffle(again)
    assert held_out(again) == held_out(photos)


@given(PHOTOS)
def test_a_class_keeps_its_choice_whatever_happens_to_the_others(photos: list[tuple[str, str]]) -> None:
    own = [row for row in photos if row[1] == "a"]
    assert held_out(own) == {name for name in held_out(photos) if name.startswith("a/")}


@given(PHOTOS)
def test_every_class_gives_a_fifth_and_at_least_one_where_it_has_two(photos: list[tuple[str, str]]) -> None:
    test = held_out(photos)
    for class_name in "abc":
        members = {name for name, of in photos if of == class_name}
        count = len(members & test)
        assert count == (max(1, round(len(members) / 5)) if len(members) > 1 else 0)
