"""Before user code runs: who may run what, and what becomes of a claim that is not used."""

import pytest
from stage import Stage

from yadtq.attempt import Ending, Lease
from yadtq.states import State


def test_one_record_of_a_partition_runs_at_a_time_and_partitions_run_side_by_side() -> None:
    stage = Stage(partitions=2)
    stage.publish("a", "b", partition=0)
    stage.publish("c", partition=1)
    worker = stage.player()
    worker.turn(3)
    assert {attempt.task_id for attempt in worker.runner.waiting.values()} == {"a", "c"}


def test_no_more_is_claimed_than_the_runner_has_room_for() -> None:
    stage = Stage(partitions=3)
    for partition in range(3):
        stage.publish(f"t{partition}", partition=partition)
    worker = stage.player(slots=2)
    worker.turn(5)
    assert len(worker.runner.waiting) == 2
    assert sum(stage.ledger.records([f"t{at}"])[0] is not None for at in range(3)) == 2


def test_a_claim_whose_answer_was_lost_is_asked_again_and_runs_once(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player()
    stage.ledger.lose_replies = 2
    for _ in range(4):
        worker.turn(2)
        stage.clock.turn(1_000)
    worker.work()
    assert worker.runner.history == [("a", 1)]
    assert stage.record("a").attempts == 1


@pytest.mark.parametrize("lost_at", range(1, 6))
def test_a_lost_answer_at_any_exchange_neither_loses_nor_repeats_a_task(stage: Stage, lost_at: int) -> None:
    stage.publish("a", "b")
    worker = stage.player()
    for turn in range(1, 40):
        if turn == lost_at:
            stage.ledger.lose_replies = 1
        worker.turn()
        worker.runner.begin()
        worker.runner.end()
        stage.clock.turn(300)
        worker.heartbeat.turn()
    assert stage.ledger.lose_replies == 0, "the fault did not bite"
    assert worker.runner.history == [("a", 1), ("b", 1)]
    assert stage.committed() == 2


def test_an_answer_that_comes_after_the_partition_has_gone_is_released(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player("old")
    stage.ledger.lose_replies = 1
    worker.turn()  # the claim is made and its answer lost
    assert stage.record("a").status is State.PROCESSING
    stage.player("new")
    worker.consumer.expel()
    worker.intake.turn(worker.consumer)
    assert worker.intake.assignments == {}
    stage.clock.turn(1_000)
    worker.engine.step(0.0)
    worker.engine.step(0.0)
    record = stage.record("a")
    assert (record.status, record.attempts) == (State.QUEUED, 0)
    assert worker.runner.history == []
    assert "released" in worker.kinds("a")


def test_what_was_given_and_has_not_started_is_recalled_when_the_partition_goes(stage: Stage) -> None:
    stage.publish("a")
    first = stage.player("first")
    first.turn(3)
    assert len(first.runner.waiting) == 1
    second = stage.player("second")
    first.consumer.expel()
    first.turn(3)
    assert stage.record("a").attempts == 0
    stage.clock.turn(1_000)
    second.work()
    assert second.runner.history == [("a", 1)], "the attempt was given back, so the next one has its number"


def test_what_runs_when_the_partition_goes_runs_on_and_the_new_owner_waits_for_its_end(stage: Stage) -> None:
    stage.publish("a", "b")
    first, second = stage.player("first"), stage.player("second")
    first.turn(3)
    first.runner.begin()
    first.consumer.expel()
    second.turn(3)
    assert "elsewhere" in second.kinds("a")
    first.runner.end()
    first.turn(4)
    stage.clock.turn(1_000)
    second.work()
    assert ("a", 1) in first.runner.history
    assert second.runner.history == [("b", 1)]
    stage.clock.turn(2_000)
    second.turn(2)
    assert stage.committed() == 2


def test_a_worker_that_dies_is_taken_over_when_its_lease_is_over_and_not_before(stage: Stage) -> None:
    stage.publish("a")
    dying, other = stage.player("dying"), stage.player("other")
    dying.turn(3)
    dying.runner.begin()
    dying.crash()
    stage.clock.turn(9_000)
    other.heartbeat.turn()
    other.turn(3)
    other.heartbeat.turn()
    assert other.runner.waiting == {}
    stage.clock.turn(1_100)
    other.turn(3)
    assert "taken_over" in other.kinds("a")
    other.work()
    record = stage.record("a")
    assert (record.attempts, record.status) == (2, State.SUCCESS)


def test_a_claim_is_not_started_when_the_lease_may_be_over(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player()
    stage.ledger.lose_replies = 1
    worker.turn()  # the claim is made and its answer lost
    worker.identity.lease = Lease(worker.identity.incarnation, stage.clock.mono_s() - 1.0)
    stage.clock.turn(300)
    worker.turn(2)
    assert worker.runner.waiting == {}
    assert stage.record("a").attempts == 0
    worker.heartbeat.turn()
    stage.clock.turn(200)
    worker.work()
    assert worker.runner.history == [("a", 1)]


@pytest.mark.parametrize("known", [False, True])
def test_what_a_runner_was_given_does_not_start_when_the_lease_is_over(stage: Stage, known: bool) -> None:
    stage.publish("a")
    stopped, other = stage.player("stopped"), stage.player("other")
    stopped.turn(3)
    assert len(stopped.runner.waiting) == 1
    stage.lease_over(other)
    if known:  # it has learned that it was DEAD, and beats under a new incarnation
        stopped.heartbeat.turn()
        stopped.heartbeat.turn()
    stopped.runner.begin()
    assert stopped.runner.history == []
    stopped.consumer.expel()
    stopped.turn(2)
    stage.clock.turn(1_000)
    other.work()
    assert other.runner.history == [("a", 1)], "it was given back, and its number with it"
    assert "released" in stopped.kinds("a")


def test_a_worker_that_was_dead_goes_on_under_a_new_incarnation(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player()
    before = worker.identity.incarnation
    stage.lease_over()
    worker.turn(2)
    assert worker.runner.waiting == {}
    worker.heartbeat.turn()
    worker.heartbeat.turn()
    assert worker.identity.incarnation != before
    stage.clock.turn(1_000)
    worker.work()
    assert worker.runner.history == [("a", 1)]
    assert "reborn" in worker.kinds()


def test_nothing_is_claimed_before_the_first_beat_and_without_an_epoch(stage: Stage) -> None:
    stage.publish("a")
    stage.ledger.wipe()
    worker = stage.player()
    worker.turn(2)
    assert stage.ledger.records(["a"]) == [None]
    stage.clock.turn(200)
    worker.work()
    assert worker.runner.history == [("a", 1)]


def test_a_settled_task_that_comes_again_is_closed_without_a_run(stage: Stage) -> None:
    stage.publish("a", "a")
    worker = stage.player()
    worker.work()
    stage.clock.turn(2_000)
    worker.turn(2)
    assert worker.runner.history == [("a", 1)]
    assert len(stage.outcomes("a")) == 1
    assert stage.committed() == 2


def test_an_accepted_verdict_whose_worker_died_is_written_in_full_by_the_next_owner(stage: Stage) -> None:
    stage.publish("a", max_attempts=1)
    dying, other = stage.player("dying"), stage.player("other")
    dying.turn(3)
    dying.runner.begin()
    dying.producer.hold = True
    dying.runner.end(Ending.RAISED)
    dying.turn(2)
    assert stage.record("a").status is State.FAILED
    dying.crash()
    other.work()
    assert len(stage.lying_in(stage.topics.dead)) == 1
    assert [outcome.state for outcome in stage.outcomes("a")] == [State.FAILED]
    assert stage.record("a").final
    assert other.runner.history == []


def test_draining_finishes_what_runs_gives_back_what_waits_and_claims_nothing_more() -> None:
    stage = Stage(partitions=2)
    stage.publish("runs", "next", partition=0)
    worker = stage.player()
    worker.turn(3)
    worker.runner.begin()
    stage.publish("waits", partition=1)
    worker.turn(3)
    assert [attempt.task_id for attempt in worker.runner.waiting.values()] == ["waits"]
    worker.drain()
    assert not worker.engine.idle
    worker.runner.end()
    worker.turn(4)
    assert (worker.engine.idle, stage.record("runs").final, stage.record("waits").attempts) == (True, True, 0)
    assert stage.ledger.records(["next"]) == [None]


def test_attempts_made_before_count_and_never_go_down(stage: Stage) -> None:
    stage.publish("a", task_tries=2)
    stage.publish("b", task_tries=3)
    worker = stage.player()
    worker.work(ending=Ending.RAISED)
    assert worker.runner.history == [("a", 3)]
    assert (stage.record("a").attempts, stage.record("a").status) == (3, State.FAILED)
    assert (stage.record("b").attempts, stage.record("b").status) == (3, State.FAILED)
    assert "no attempt is left" in (stage.record("b").error_log or "")
