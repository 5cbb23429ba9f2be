"""What is done about an outcome."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.attempt import Ending, Outcome
from yadtq.retry import CAP_S, Verdict, decide
from yadtq.states import State


def outcome(ending: Ending, **facts: bytes | str) -> Outcome:
    return Outcome(1, ending, 10, 20, **facts)  # type: ignore[arg-type]


def test_what_returned_succeeds_however_often_it_failed_before() -> None:
    verdict = decide(outcome(Ending.RETURNED, result=b"3"), failures=99, max_attempts=1, chance=0.5)
    assert verdict == Verdict(State.SUCCESS, result=b"3")


@pytest.mark.parametrize("ending", [Ending.RAISED, Ending.TIMED_OUT])
def test_what_failed_runs_again_until_its_attempts_are_used_up(ending: Ending) -> None:
    raised = outcome(ending, error_log="boom")
    states = [decide(raised, failures=failures, max_attempts=3, chance=0).state for failures in range(4)]
    assert states == [State.QUEUED, State.QUEUED, State.FAILED, State.FAILED]


@pytest.mark.parametrize("ending", [Ending.BAD_ARGUMENTS, Ending.BAD_RESULT])
def test_what_would_fail_again_anyway_fails_at_once(ending: Ending) -> None:
    verdict = decide(outcome(ending, error_log="why"), failures=0, max_attempts=9, chance=0.5)
    assert verdict == Verdict(State.FAILED, error_log="why", failed=True)


def test_the_range_of_the_wait_doubles_up_to_its_cap() -> None:
    raised = outcome(Ending.RAISED, error_log="boom")
    waits = [decide(raised, failures=failures, max_attempts=9, chance=1).wait_s for failures in range(5)]
    assert waits == [0.25, 0.5, 1, 1, 1]
    assert decide(raised, failures=1, max_attempts=9, chance=0.5).wait_s == 0.25


@given(
    ending=st.sampled_from(Ending),
    failures=st.integers(0, 2**31),
    max_attempts=st.integers(1, 2**31),
    chance=st.floats(0, 1),
)
def test_every_outcome_has_a_verdict(ending: Ending, failures: int, max_attempts: int, chance: float) -> None:
    verdict = decide(outcome(ending, error_log="x"), failures=failures, max_attempts=max_attempts, chance=chance)
    assert 0 <= verdict.wait_s <= CAP_S
    assert verdict.wait_s == 0 or verdict.state is State.QUEUED
    assert verdict.state is not State.PROCESSING
    again = ending is Ending.DIED or (ending in (Ending.RAISED, Ending.TIMED_OUT) and failures + 1 < max_attempts)
    assert (verdict.state is State.QUEUED) == again
    assert verdict.died == (ending is Ending.DIED)
    assert verdict.failed == (ending not in (Ending.DIED, Ending.RETURNED))


def test_a_task_that_ends_its_process_three_times_is_poison() -> None:
    verdicts = [
        decide(outcome(Ending.DIED, error_log="SIGSEGV"), failures=0, max_attempts=1, chance=1.0, deaths=deaths)
        for deaths in range(3)
    ]
    assert [verdict.state for verdict in verdicts] == [State.QUEUED, State.QUEUED, State.FAILED]
    assert [verdict.wait_s for verdict in verdicts] == [0.0, 0.0, 0.0]
    assert verdicts[2].error_log == "SIGSEGV"


def test_a_task_that_was_tried_thousands_of_times_gets_a_verdict_too() -> None:
    verdict = decide(outcome(Ending.RAISED, error_log="x"), failures=5_000, max_attempts=9_999, chance=1)
    assert verdict.wait_s == CAP_S
