"""What is done about an outcome."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.attempt import Ending, Outcome
from yadtq.errors import InvalidTask
from yadtq.retry import IN_PLACE_S, MAX_WAIT_S, RetryPolicy, Verdict, decide
from yadtq.states import State


def outcome(ending: Ending, **facts: Any) -> Outcome:
    return Outcome(1, ending, 10, 20, **facts)


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
    raised, policy = outcome(Ending.RAISED, error_log="boom"), RetryPolicy(cap_s=3)
    waits = [decide(raised, failures=n, max_attempts=9, chance=1, policy=policy).wait_s for n in range(6)]
    assert waits == [0.25, 0.5, 1, 2, 3, 3]
    assert decide(raised, failures=1, max_attempts=9, chance=0.5).wait_s == 0.25


def test_a_short_wait_is_spent_in_place_and_a_longer_one_is_scheduled() -> None:
    def state(after_s: float, in_place: bool = False) -> State:
        raised = outcome(Ending.RAISED, error_log="boom", after_s=after_s)
        return decide(raised, failures=0, max_attempts=9, chance=1, in_place=in_place).state

    assert state(IN_PLACE_S) is State.QUEUED
    assert state(IN_PLACE_S + 0.001) is State.SCHEDULED
    assert state(3_600, in_place=True) is State.QUEUED


def test_a_snooze_is_charged_with_nothing_and_never_ends_a_task() -> None:
    verdict = decide(outcome(Ending.SNOOZED, error_log="later", after_s=60), failures=2, max_attempts=1, chance=0)
    assert verdict == Verdict(State.SCHEDULED, error_log="later", wait_s=60)
    assert not verdict.charged


@pytest.mark.parametrize("after_s", [-1.0, 1e300, float("inf")])
def test_a_wait_that_makes_no_sense_is_brought_into_its_range(after_s: float) -> None:
    verdict = decide(outcome(Ending.SNOOZED, after_s=after_s), failures=0, max_attempts=1, chance=0)
    assert 0 <= verdict.wait_s <= MAX_WAIT_S


@pytest.mark.parametrize(
    "bad", [{"base_s": -1.0}, {"base_s": 2.0, "cap_s": 1.0}, {"cap_s": 1e12}, {"waits_s": ((OSError, -1.0),)}]
)
def test_a_policy_that_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidTask):
        RetryPolicy(**bad)


def test_a_policy_knows_what_is_not_tried_again_and_what_waits_differently() -> None:
    policy = RetryPolicy(give_up_on=(KeyError,), waits_s=((ConnectionError, 30.0), (OSError, 5.0)))
    assert policy.gives_up(KeyError())
    assert not policy.gives_up(ValueError())
    assert policy.wait_s(ConnectionResetError()) == 30.0
    assert policy.wait_s(FileNotFoundError()) == 5.0
    assert policy.wait_s(ValueError()) is None
    assert RetryPolicy(only_on=(OSError,)).gives_up(ValueError())
    assert not RetryPolicy(only_on=(OSError,)).gives_up(FileNotFoundError())


AGAIN = {Ending.RAISED, Ending.TIMED_OUT}


@given(
    ending=st.sampled_from(Ending),
    failures=st.integers(0, 2**31),
    max_attempts=st.integers(1, 2**31),
    chance=st.floats(0, 1),
    after_s=st.none() | st.floats(allow_nan=False),
    in_place=st.booleans(),
)
def test_every_outcome_has_a_verdict(
    ending: Ending, failures: int, max_attempts: int, chance: float, after_s: float | None, in_place: bool
) -> None:
    ended = outcome(ending, error_log="x", after_s=after_s)
    verdict = decide(ended, failures=failures, max_attempts=max_attempts, chance=chance, in_place=in_place)
    waits = verdict.state in (State.QUEUED, State.SCHEDULED)
    assert 0 <= verdict.wait_s <= MAX_WAIT_S
    assert verdict.wait_s == 0 or waits
    assert verdict.state is not State.PROCESSING
    assert not (in_place and verdict.state is State.SCHEDULED)
    again = ending in (Ending.DIED, Ending.LOST, Ending.SNOOZED) or (ending in AGAIN and failures + 1 < max_attempts)
    assert waits == again
    assert verdict.died == (ending in (Ending.DIED, Ending.LOST))
    assert verdict.lost == (ending is Ending.LOST)
    assert verdict.failed == (ending not in (Ending.DIED, Ending.LOST, Ending.RETURNED, Ending.SNOOZED))


@pytest.mark.parametrize("ending", [Ending.DIED, Ending.LOST])
def test_a_task_that_ends_its_process_three_times_is_poison(ending: Ending) -> None:
    """Also one that does it just after its end: it would go on for ever."""
    verdicts = [
        decide(outcome(ending, error_log="SIGSEGV"), failures=0, max_attempts=1, chance=1.0, deaths=deaths)
        for deaths in range(3)
    ]
    assert [verdict.state for verdict in verdicts] == [State.QUEUED, State.QUEUED, State.FAILED]
    assert [verdict.wait_s for verdict in verdicts] == [0.0, 0.0, 0.0]
    assert verdicts[2].error_log == "SIGSEGV"


def test_a_task_that_was_tried_thousands_of_times_gets_a_verdict_too() -> None:
    verdict = decide(outcome(Ending.RAISED, error_log="x"), failures=5_000, max_attempts=9_999, chance=1)
    assert verdict.wait_s == RetryPolicy().cap_s
