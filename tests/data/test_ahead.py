"""Work that a pool does ahead of its consumer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline_lib.data.ahead import map_ahead


@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_results_come_in_order_and_no_more_are_taken_than_asked(ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    def slow_at_first(number: int) -> int:
        time.sleep(0.01 if number % 4 == 0 else 0)
        return number * number

    with ThreadPoolExecutor(4) as pool:
        for place, (item, result) in enumerate(map_ahead(pool, slow_at_first, items(), ahead)):
            assert (item, result) == (place, place * place)
            assert len(taken) <= place + ahead
    assert len(taken) == 20


def test_several_are_at_work_at_once() -> None:
    together = threading.Barrier(3, timeout=20)
    with ThreadPoolExecutor(3) as pool:
        assert len(list(map_ahead(pool, lambda _: together.wait(), range(3), 3))) == 3


def test_a_failure_is_raised_where_its_result_would_be() -> None:
    def broken(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, broken, range(5), 4)
        assert [next(results)[1], next(results)[1]] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)
