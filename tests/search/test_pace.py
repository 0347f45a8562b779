from __future__ import annotations

import asyncio
import threading

import pytest

from pipeline_lib.search.pace import Admission, BusyError, Line, Pace


def test_the_expected_wait_grows_with_those_ahead_and_with_what_their_work_took_lately() -> None:
    line = Line("test", 2)
    go = threading.Event()
    for _ in range(30):
        line.submit(lambda: threading.Event().wait(0.01)).result(10)
    assert line.pace.expected() == 0  # nobody is ahead
    waiting = [line.submit(lambda: go.wait(10)) for _ in range(10)]
    short = line.pace.expected()
    assert 0.02 < short < 0.5
    waiting += [line.submit(lambda: go.wait(10)) for _ in range(30)]
    assert line.pace.expected() > 2 * short
    for job in waiting[4:]:
        job.cancel()
    assert line.pace.waiting == 4
    go.set()
    for job in waiting[:4]:
        job.result(10)
    line.close()
    assert line.pace.waiting == 0


def test_of_a_queue_whose_threads_are_all_stuck_nothing_is_expected_soon() -> None:
    pace = Pace(2)
    with pace.working():
        threading.Event().wait(0.05)
        assert pace.expected() == 0  # the other thread is free
        with pace.working():
            threading.Event().wait(0.05)
            assert pace.expected() >= 0.05


def test_work_on_many_at_once_counts_for_each_of_them() -> None:
    one, many = Pace(), Pace()
    for pace, jobs in ((one, 1), (many, 10)):
        for _ in range(20):
            with pace.working(jobs):
                threading.Event().wait(0.01)
        pace.waiting = 10
    assert one.expected() > 5 * many.expected()


def test_only_those_are_admitted_who_can_be_answered_in_time_and_others_are_told_when_to_come_again() -> None:
    async def visit() -> tuple[Admission, int]:
        admission, pace = Admission(within=0.2, expected=0.1), Pace()
        async with admission.enter(pace, Pace()):
            assert admission.waiting == 1
        with pytest.raises(KeyError):
            async with admission.enter(pace, Pace()):
                raise KeyError
        with pytest.raises(TimeoutError):  # one of its own is no matter of waiting
            async with admission.enter(pace, Pace()):
                raise TimeoutError
        with pytest.raises(BusyError):
            async with admission.enter(pace, Pace()):
                await asyncio.sleep(5)
        pace.waiting = 200
        with pytest.raises(BusyError) as busy:
            async with admission.enter(pace, Pace()):
                pass
        return admission, busy.value.seconds

    admission, seconds = asyncio.run(visit())
    assert (admission.waiting, admission.answered, admission.refused) == (0, 1, 2)
    assert seconds == 10  # 200 of 0.05 s
