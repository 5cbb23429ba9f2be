"""The heartbeat is the lease: who beats, who turns DEAD, and who has to leave."""

import pytest
from stage import Stage

from yadtq.errors import Superseded


def status(stage: Stage, name: str) -> str:
    return {worker.name: worker.status for worker in stage.ledger.workers()}[name]


def test_a_worker_whose_loops_move_stays_alive(stage: Stage) -> None:
    worker = stage.player()
    for _ in range(6):
        stage.clock.turn(5_000)
        worker.turn()
        worker.heartbeat.turn()
    assert status(stage, "w1") == "ALIVE"


@pytest.mark.parametrize("wedged", ["engine", "intake"])
def test_a_worker_with_a_wedged_loop_turns_dead_although_its_heart_could_go_on(stage: Stage, wedged: str) -> None:
    worker = stage.player()
    worker.turn()
    worker.heartbeat.turn()
    for _ in range(3):
        stage.clock.turn(5_000)
        if wedged == "engine":
            worker.intake.turn(worker.consumer)
        else:
            worker.engine.step(0.0)
        worker.heartbeat.turn()
    assert status(stage, "w1") == "DEAD"


def test_the_older_of_two_processes_under_one_name_leaves(stage: Stage) -> None:
    older = stage.player("same")
    newer = stage.player("same")
    older.turn()
    with pytest.raises(Superseded, match="under the worker name 'same'"):
        older.heartbeat.turn()
    newer.turn()
    newer.heartbeat.turn()
    assert status(stage, "same") == "ALIVE"


def test_a_newer_process_under_the_same_name_takes_over_at_once(stage: Stage) -> None:
    stage.publish("a")
    older = stage.player("same")
    older.turn(3)
    older.runner.begin()
    older.crash()
    newer = stage.player("same")
    newer.work()
    assert newer.runner.history == [("a", 2)]


def test_a_redis_that_is_down_for_a_moment_changes_nothing(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player()
    worker.turn(3)
    worker.runner.begin()
    stage.ledger.down = True
    worker.runner.end()
    worker.heartbeat.turn()
    worker.turn(3)
    stage.clock.turn(3_000)
    stage.ledger.down = False
    worker.turn(5)
    worker.heartbeat.turn()
    assert stage.record("a").final
    assert worker.runner.history == [("a", 1)]
    assert worker.kinds().count("unavailable") >= 1
    assert "available" in worker.kinds()
    assert "reborn" not in worker.kinds()
