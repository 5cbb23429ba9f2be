"""Unordered queues: one slow or failing task never stops the others of its partition, and no commit passes it."""

import pytest
from stage import Stage

from yadtq.attempt import Ending


def test_a_slow_task_does_not_stop_the_others_and_holds_the_commit(stage: Stage) -> None:
    stage.publish("slow", *(f"t{n}" for n in range(50)))
    worker = stage.player(order="unordered", slots=4)
    worker.turn(2)
    worker.runner.begin()
    slow = next(number for number, attempt in worker.runner.running.items() if attempt.task_id == "slow")
    for _ in range(40):
        for number in [number for number in worker.runner.running if number != slow]:
            worker.runner.end_one(number)
        worker.turn()
        worker.runner.begin()
    stage.clock.turn(2_000)
    worker.turn(2)
    assert all(stage.record(f"t{n}").final for n in range(50))
    assert stage.committed() == 0, "the commit passed a task that still runs"
    worker.runner.end()
    worker.turn(4)
    stage.clock.turn(2_000)
    worker.turn(2)
    assert stage.committed() == 51


def test_the_next_owner_skips_what_was_finished_above_a_slow_task(stage: Stage) -> None:
    stage.publish("slow", "a", "b", "c")
    first, second = stage.player("first", order="unordered"), stage.player("second", order="unordered")
    first.turn(2)
    first.runner.begin()
    for number, attempt in list(first.runner.running.items()):
        if attempt.task_id in "ab":
            first.runner.end_one(number)
    first.turn(4)
    stage.clock.turn(2_000)
    first.turn(2)
    first.crash()
    stage.lease_over(second)
    second.work()
    assert [task_id for task_id, _ in second.runner.history] == ["slow", "c"]
    assert "settled" not in second.kinds(), "it asked about records that the bitmap had named"
    stage.lease_over(second)
    assert stage.committed() == 4


def test_a_retry_that_waits_does_not_hold_the_others(stage: Stage) -> None:
    stage.publish("bad", "good")
    worker = stage.player(order="unordered", slots=1)
    worker.turn(2)
    worker.runner.begin()
    worker.runner.end(Ending.RAISED)
    worker.turn(2)
    worker.runner.begin()
    assert worker.runner.history == [("bad", 1), ("good", 1)]


@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_the_order_of_completion_does_not_matter(stage: Stage, order: str) -> None:
    ids = [f"t{n}" for n in range(12)]
    stage.publish(*ids)
    worker = stage.player(order="unordered")
    worker.turn(2)
    worker.runner.begin()
    numbers = sorted(worker.runner.running, reverse=order == "backwards")
    for done, number in enumerate(numbers, 1):
        worker.runner.end_one(number)
        worker.turn(3)
        stage.clock.turn(1_500)
        worker.turn(2)
        worker.heartbeat.turn()
        expected = done if order == "forwards" else 12 * (done == 12)
        assert stage.committed() == expected
