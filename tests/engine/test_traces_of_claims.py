"""The shortest ways to break a rule of claim or settle, as a search over all orders of events found them.

Each step of a trace is a line. Where the rule stood in the way of the next step, the test says so; what follows shows
that the task comes to its one end all the same. `test_trace_mutants.py` takes each rule away.
"""

import pytest
from steps import (
    accepted,
    beats,
    claimed_again,
    claims,
    commits,
    copied_to_the_tail,
    dead,
    finished,
    joins,
    lives_for,
    one_runs,
    opened,
    produced,
    reborn,
    revoked,
    small_window,
    starts,
    taken,
)

from yadtq.attempt import Ending
from yadtq.ledger import Batch
from yadtq.ledger.made import Made
from yadtq.offsets import read_bitmap
from yadtq.states import State


def test_what_is_only_claimed_is_not_committed() -> None:
    stage = opened()
    stage.publish("t")
    w0 = joins(stage, "w0")
    assert claims(w0) == ["t"]
    commits(w0)
    assert stage.committed() == 0, "nothing in Kafka would carry it"
    w0.crash()
    dead(w0)
    finished(stage, joins(stage, "w1"))


def test_a_commit_does_not_pass_what_has_not_ended() -> None:
    stage = opened()
    stage.publish("t", "u")
    w0 = joins(stage, "w0")
    assert claims(w0) == ["t", "u"]
    starts(w0)
    last = max(w0.runner.running)
    w0.runner.end_one(last)
    produced(w0)
    commits(w0)
    assert stage.committed() == 0, "nothing in Kafka would carry the first"
    (position,) = stage.broker.offsets.values()
    assert read_bitmap(position.metadata, 0) == {1}
    w0.crash()
    dead(w0)
    finished(stage, joins(stage, "w1"), ids=("t", "u"))


def test_a_superseded_attempt_is_not_accepted() -> None:
    stage, w0 = one_runs()
    w1 = joins(stage, "w1")
    taken(w0, w1)
    dead(w0, w1)
    assert claims(w1) == ["t"]
    fence = stage.record("t").fence
    accepted(w0)
    assert "refused" in w0.kinds("t")
    assert (stage.record("t").status, stage.record("t").fence) == (State.PROCESSING, fence)
    w0.crash()
    finished(stage, w1)
    assert w1.runner.history == [("t", 2)]


def test_a_dead_letter_that_kafka_did_not_take_holds_the_commit() -> None:
    stage, w0 = one_runs(max_attempts=2)
    claimed_again(w0)
    starts(w0)
    accepted(w0, Ending.RAISED)
    w0.producer.fail_next = 1
    produced(w0)
    assert stage.lying_in(stage.topics.dead) == []
    commits(w0)
    assert stage.committed() == 1, "the record that has to be written to the dead letters is the second"
    finished(stage, w0, end=State.FAILED)
    assert len(stage.lying_in(stage.topics.dead)) == 1


def test_a_head_is_not_closed_before_its_copy_is_in_kafka() -> None:
    stage = opened()
    stage.publish("t")
    w0 = joins(stage, "w0")
    with small_window():
        claims(w0)
        starts(w0)
        w0.producer.hold = True
        lives_for(w0, 30)
        w0.engine.step(0.0)  # the copy is under way
        commits(w0)
        assert stage.committed() == 0, "nothing in Kafka would carry it"
        w0.crash()
        dead(w0)
        finished(stage, joins(stage, "w1"))


def test_a_claim_that_did_not_start_is_given_back_when_its_partition_goes() -> None:
    stage = opened()
    stage.publish("t")
    w0, w1 = joins(stage, "w0"), joins(stage, "w1")
    assert claims(w0) == ["t"]
    revoked(w0, w1)
    w0.engine.step(0.0)
    w0.engine.step(0.0)
    assert (stage.record("t").status, stage.record("t").attempts) == (State.QUEUED, 0)
    assert claims(w1) == ["t"], "w0 lives: held by it, the task would be ELSEWHERE for ever"
    finished(stage, w1, w0)


def test_a_claim_whose_answer_was_lost_is_not_lost_itself() -> None:
    stage = opened()
    stage.publish("t")
    w0 = joins(stage, "w0")
    stage.ledger.lose_replies = 1
    assert claims(w0) == []
    assert stage.record("t").status is State.PROCESSING
    lives_for(w0, 1)
    assert claims(w0) == ["t"], "the same token gets the same answer"
    finished(stage, w0)
    assert w0.runner.history == [("t", 1)]


def test_the_copy_of_what_runs_does_not_run_beside_it() -> None:
    stage = opened()
    stage.publish("t")
    w0 = joins(stage, "w0")
    with small_window():
        claims(w0)
        starts(w0)
        copied_to_the_tail(w0)
        assert claims(w0) == []
        assert "elsewhere" in w0.kinds("t")
        starts(w0)
        assert w0.runner.history == [("t", 1)], "no fault, and no second run"
        finished(stage, w0)
    assert w0.runner.history == [("t", 1)]


def test_a_retry_that_was_accepted_and_not_written_is_not_taken_for_done() -> None:
    stage, w0 = one_runs()
    accepted(w0, Ending.RAISED, after_s=5.0)
    w0.crash()
    w1 = joins(stage, "w1")
    w1.producer.hold = True
    assert claims(w1) == []
    commits(w1)
    assert stage.committed() == 0, "nothing in Kafka would carry it"
    produced(w1)
    commits(w1)
    assert (stage.committed(), len(stage.lying_in(stage.topics.delayed))) == (1, 1)
    finished(stage, w1)
    assert w1.runner.history == [("t", 2)]


def one_lost_worker_is(monkeypatch: pytest.MonkeyPatch, too_many: int) -> None:
    monkeypatch.setattr("yadtq.ledger.memory_task.MAX_TAKEOVERS", too_many)


def test_a_verdict_that_is_repeated_has_its_dead_letter_too() -> None:
    with pytest.MonkeyPatch.context() as patch:
        one_lost_worker_is(patch, 0)
        stage, w0 = one_runs(max_attempts=2)
        claimed_again(w0)
        w0.crash()
        dead(w0)
        w1 = joins(stage, "w1")
        assert claims(w1) == [], "what is used up ends in the claim"
        produced(w1)
        commits(w1)
        assert stage.committed() == 2
        assert len(stage.lying_in(stage.topics.dead)) == 1
        finished(stage, w1, end=State.FAILED)


def test_a_refused_verdict_closes_nothing() -> None:
    stage, w0 = one_runs()
    stage.ledger.wipe()
    assert stage.ledger.take(stage.topics.tasks, "hasty", 0)
    epoch = stage.ledger.allot(stage.topics.tasks, "hasty", stage.clock.now_ms())
    assert epoch
    assert stage.ledger.open(stage.topics.tasks, "hasty", epoch, 0), "somebody opened it and waited for nobody"
    beats(w0)
    accepted(w0)
    assert "refused" in w0.kinds("t")
    commits(w0)
    assert stage.committed() == 0, "nothing in Kafka would carry it"
    finished(stage, w0)
    assert w0.runner.history == [("t", 1), ("t", 1)]


def test_an_envelope_is_not_stale_because_of_attempts() -> None:
    stage = opened()
    stage.publish("t", max_attempts=3)
    w0 = joins(stage, "w0")
    claims(w0)
    w0.crash()
    w1 = joins(stage, "w1")
    w0 = joins(stage, "w0")  # again, under its name: its claims have ended
    assert claims(w1) == ["t"]
    revoked(w1, w0)
    assert claims(w0) == []
    commits(w0)
    assert stage.committed() == 0, "nothing in Kafka would carry it"
    finished(stage, w0, w1)
    assert stage.record("t").attempts == 2


def test_what_is_used_up_does_not_start_again() -> None:
    with pytest.MonkeyPatch.context() as patch:
        one_lost_worker_is(patch, 1)
        stage = opened()
        stage.publish("t")
        w0 = joins(stage, "w0")
        claims(w0)
        w0.crash()
        dead(w0)
        w1 = joins(stage, "w1")
        assert claims(w1) == ["t"]
        w1.crash()
        w1 = joins(stage, "w1")
        assert claims(w1) == []
        starts(w1)
        assert w1.runner.history == []
        finished(stage, w1, end=State.FAILED)


def test_nothing_starts_under_a_lease_that_has_ended() -> None:
    stage = opened()
    stage.publish("t")
    w0, w1 = joins(stage, "w0"), joins(stage, "w1")
    really = stage.ledger.ask

    def pausing(topic: str, worker: str, incarnation: str, batch: Batch) -> Made:
        """After the claim of w0 is made, it stands still, and all else goes on."""
        made = really(topic, worker, incarnation, batch)
        if worker == "w0" and batch.claims:
            stage.ledger.ask = really  # type: ignore[method-assign]
            taken(w0, w1)
            dead(w0, w1)
            assert claims(w1) == ["t"]
            starts(w1)
            accepted(w1)
            produced(w1)
        return made

    stage.ledger.ask = pausing  # type: ignore[method-assign]
    assert claims(w0) == [], "what has ended would start again"
    assert stage.record("t").final
    finished(stage, w1, w0)
    assert (w0.runner.history, w1.runner.history) == ([], [("t", 2)])


def test_what_is_claimed_again_after_the_death_of_its_runner_has_the_present_incarnation() -> None:
    stage = opened()
    stage.publish("t", max_attempts=3)
    w0 = joins(stage, "w0")
    with small_window():
        claims(w0)
        starts(w0)
        copied_to_the_tail(w0)
        dead(w0)
        reborn(w0)
        w0.runner.end(Ending.DIED)
        w0.engine.step(0.0)  # the death is accepted
        w0.engine.step(0.0)  # and the task is claimed again
        assert [attempt.task_id for attempt in w0.runner.waiting.values()] == ["t"]
        claims(w0)  # its copy is read
        assert "elsewhere" in w0.kinds("t")
        starts(w0)
        assert w0.runner.history == [("t", 1), ("t", 2)], "one run at a time"
        finished(stage, w0)
    assert w0.runner.history == [("t", 1), ("t", 2)]
