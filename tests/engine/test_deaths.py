"""A task that ends the process that ran it is charged with a death, not a failure; at the third it is poison."""

import pytest
from stage import Stage

from yadtq.attempt import Ending
from yadtq.settings import Order
from yadtq.states import State


def test_an_attempt_whose_runner_died_runs_again_at_once_and_uses_up_no_failure(stage: Stage) -> None:
    stage.publish("a", max_attempts=1)
    worker = stage.player()
    worker.turn(3)
    worker.runner.begin()
    worker.runner.end(Ending.DIED, error_log="its runner was ended by SIGKILL")
    worker.turn(2)
    worker.work()
    assert worker.runner.history == [("a", 1), ("a", 2)]
    assert (stage.record("a").status, stage.record("a").attempts) == (State.SUCCESS, 2)


def test_a_task_that_kills_three_runners_is_dead_lettered_with_the_signal(stage: Stage) -> None:
    stage.publish("poison", "good")
    worker = stage.player()
    for _ in range(3):
        worker.turn(3)
        worker.runner.begin()
        worker.runner.end(Ending.DIED, error_log="its runner was ended by SIGSEGV")
    worker.work()
    assert worker.runner.history == [("poison", 1), ("poison", 2), ("poison", 3), ("good", 1)]
    record = stage.record("poison")
    assert (record.status, record.error_log) == (State.FAILED, "its runner was ended by SIGSEGV")
    assert len(stage.lying_in(stage.topics.dead)) == 1


def test_deaths_and_failures_are_counted_apart(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player()
    for ending in (Ending.DIED, Ending.RAISED, Ending.DIED, Ending.RAISED, Ending.RETURNED):
        worker.turn(3)
        worker.runner.begin()
        worker.runner.end(ending)
        worker.turn(2)
        stage.clock.turn(1_000)
        worker.heartbeat.turn()
    worker.turn(3)
    assert len(worker.runner.history) == 5
    assert stage.record("a").status is State.SUCCESS


@pytest.mark.parametrize("order", ["unordered", "key", "partition"])
def test_an_attempt_whose_outcome_was_lost_with_its_runner_is_claimed_anew(stage: Stage, order: Order) -> None:
    stage.publish("a", "b", max_attempts=1)
    worker = stage.player(order=order, solo_slots=1)
    worker.turn(3)
    worker.runner.begin()
    first = next(attempt for attempt in worker.runner.running.values() if attempt.task_id == "a")
    worker.runner.end_one(first.number, Ending.LOST, error_log="it had ended, and its runner was ended by SIGKILL")
    worker.turn(3)
    again = next(attempt for attempt in worker.runner.waiting.values() if attempt.task_id == "a")
    assert (first.attempt, again.attempt) == (1, 2)
    assert again.fence != first.fence
    assert again.place == "suspect", "what is left of it may have ended the runner, and would end others with it"
    assert worker.kinds("a").count("outcome_lost") == 1
    assert not {"retrying", "snoozed"} & set(worker.kinds("a"))
    if order == "partition":
        assert worker.runner.in_hand == [again], "the next of its lane waits for its end"
    worker.work()
    assert (stage.record("a").status, stage.record("a").attempts) == (State.SUCCESS, 2)
    assert [outcome.attempts for outcome in stage.outcomes("a")] == [2]


def test_a_task_whose_outcome_is_lost_each_time_is_dead_lettered(stage: Stage) -> None:
    stage.publish("a", "good")
    worker = stage.player()
    for _ in range(3):
        worker.turn(3)
        worker.runner.begin()
        worker.runner.end(Ending.LOST, error_log="it had ended, and its runner was ended by SIGSEGV")
    worker.work()
    assert worker.runner.history == [("a", 1), ("a", 2), ("a", 3), ("good", 1)]
    record = stage.record("a")
    assert (record.status, record.error_log) == (State.FAILED, "it had ended, and its runner was ended by SIGSEGV")
    assert len(stage.lying_in(stage.topics.dead)) == 1
    assert worker.kinds().count("outcome_lost") == 2
    (failed,) = [event.detail for event in worker.events if event.kind == "failed"]
    assert failed == "add: it had ended, and its runner was ended by SIGSEGV"
