"""A task that ends the process that ran it is charged with a death, not a failure; at the third it is poison."""

from stage import Stage

from yadtq.attempt import Ending
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
