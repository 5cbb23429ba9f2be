"""Tiny tasks are given in batches, slow ones are not; a start that fails is tried again, later and later."""

import pytest

from yadtq.runners.pace import AHEAD_MOST, Pace
from yadtq.runners.staff import BACKOFF_MOST_S, BACKOFF_TASK_S, Backoff


def test_nothing_is_given_ahead_before_anything_has_finished() -> None:
    pace = Pace()
    pace.given(100.0)
    assert pace.ahead(100.0) == 0


def test_as_much_is_given_ahead_as_finishes_in_50_ms() -> None:
    pace = Pace()
    pace.given(100.0)
    for n in range(1, 101):
        pace.finished(5, 0.0, 100.0 + n / 1_000, idle=False)  # 5,000 per second
    assert 240 <= pace.ahead(100.1) <= 260


def test_time_without_work_makes_nobody_slow() -> None:
    pace = Pace()
    for n in range(20):  # 10 tasks in 2 ms, and then nothing to do for 48 ms
        pace.given(100.0 + n / 20)
        pace.finished(10, 0.0, 100.002 + n / 20, idle=True)
    assert 240 <= pace.ahead(101.0) <= 260


def test_how_long_a_task_runs_is_the_mean_of_the_last_window() -> None:
    pace = Pace()
    pace.given(100.0)
    pace.finished(4, 0.2, 100.005, idle=False)
    assert pace.task_s == 0.0
    pace.finished(4, 0.6, 100.01, idle=False)
    assert pace.task_s == pytest.approx(0.1)
    pace.finished(2, 0.0, 100.03, idle=False)
    assert pace.task_s == 0.0


def test_never_more_than_the_most() -> None:
    pace = Pace()
    pace.given(100.0)
    pace.finished(100_000, 0.0, 100.02, idle=True)
    assert pace.ahead(100.02) == AHEAD_MOST


def test_where_nothing_has_finished_for_100_ms_nothing_is_given_ahead() -> None:
    pace = Pace()
    pace.given(100.0)
    pace.finished(1_000, 0.0, 100.02, idle=False)
    assert pace.ahead(100.1) > 0
    assert pace.ahead(100.13) == 0


def test_slow_tasks_are_not_given_ahead() -> None:
    pace = Pace()
    pace.given(100.0)
    for n in range(1, 20):
        pace.finished(1, 0.5, 100.0 + n / 2, idle=False)
        assert pace.ahead(100.0 + n / 2) == 0


def test_the_first_start_after_a_death_is_immediate_and_the_next_ones_wait_up_to_the_most() -> None:
    backoff, waits = Backoff(), []
    for _ in range(12):
        backoff.failed(10.0)
        waits.append(backoff.at_mono - 10.0)
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_MOST_S
    backoff.failed(15.0, by_task=True)
    assert backoff.at_mono == 15.0 + BACKOFF_TASK_S, "tasks that die with their process come to an end"
    backoff.reset()
    backoff.failed(20.0)
    assert backoff.at_mono == 20.0
