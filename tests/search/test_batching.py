from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from pipeline_lib.search.batching import Batcher


def test_queries_that_wait_are_worked_on_together_and_answered_in_order() -> None:
    seen: list[list[int]] = []
    entered, go = threading.Event(), threading.Event()

    def work(queries: Sequence[int]) -> list[int]:
        seen.append(list(queries))
        entered.set()
        go.wait(10)
        return [10 * query for query in queries]

    batcher = Batcher(work, batch=4)
    futures = [batcher.submit(0)]
    assert entered.wait(10)
    futures += [batcher.submit(number) for number in range(1, 8)]
    go.set()
    assert [future.result(10) for future in futures] == [10 * number for number in range(8)]
    batcher.close()
    assert seen == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_batch_that_fails_tells_its_callers_and_the_next_one_is_worked_on() -> None:
    def work(queries: Sequence[str]) -> Sequence[str]:
        if "bad" in queries:
            raise ValueError("no such thing")
        return queries

    batcher = Batcher(work, batch=1)
    bad, good = batcher.submit("bad"), batcher.submit("good")
    with pytest.raises(ValueError, match="no such thing"):
        bad.result(10)
    assert good.result(10) == "good"
    batcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("late")


def test_a_query_whose_caller_has_gone_is_not_worked_on() -> None:
    seen: list[int] = []
    entered, go = threading.Event(), threading.Event()

    def work(queries: Sequence[int]) -> Sequence[int]:
        seen.extend(queries)
        entered.set()
        go.wait(10)
        return queries

    batcher = Batcher(work, batch=8)
    batcher.submit(1)
    assert entered.wait(10)
    gone, there = batcher.submit(2), batcher.submit(3)
    assert gone.cancel()
    go.set()
    assert there.result(10) == 3
    batcher.close()
    assert seen == [1, 3]
