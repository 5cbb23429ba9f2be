"""The shortest ways to break a rule of time or recovery, as a search over all orders of events found them.

Each step of a trace is a line. Where the rule stood in the way of the next step, the test says so; what follows shows
that the task comes to its one end all the same. `test_trace_mutants.py` takes each rule away.
"""

from delays import unburied
from stage import Player, Stage, registry_of
from steps import (
    accepted,
    beats,
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
    rebuilt,
    registers,
    small_window,
    starts,
    taken,
)

from yadtq.attempt import Ending
from yadtq.codec import decode_outcome
from yadtq.layout import HEADER_MARKER, Layout
from yadtq.publisher import Publisher, Sent
from yadtq.states import State
from yadtq.task import Call, Options

DAY_S = 86_400


# -- what waits for a time ---------------------------------------------------------------------------------------------


def test_the_tombstone_of_a_firing_does_not_erase_the_retry_after_it() -> None:
    stage, w0 = one_runs(2)
    accepted(w0, Ending.RAISED, after_s=5.0)
    produced(w0)
    commits(w0)
    w0.schedule(2)
    lives_for(w0, 5)
    w0.schedule()  # fires, into partition 1
    w1 = joins(stage, "w1")
    w0.intake.turn(w0.consumer)
    assert claims(w1) == ["t"]
    starts(w1)
    accepted(w1, Ending.RAISED, after_s=5.0)
    produced(w1)
    w0.schedule()  # the tombstone after the firing
    commits(w1)
    assert stage.committed(1) == 1
    assert unburied(stage) == {b"2:t"}, "nothing in Kafka would carry it"
    finished(stage, w0, w1)
    assert stage.record("t").attempts == 3


def test_a_retry_that_is_written_late_does_not_override_an_end() -> None:
    stage, w0 = one_runs(2)
    accepted(w0, Ending.RAISED, after_s=5.0)
    w0.producer.let_go()  # Kafka has the retry and its outcome, and nothing is sealed yet
    scheduler = joins(stage, "timer")
    scheduler.schedule(2)
    lives_for(w0, 5)
    stage.broker.members[stage.topics.tasks, "workers"].remove(scheduler.consumer)
    scheduler.schedule(2)  # fires, into partition 1
    w1 = joins(stage, "w1")
    taken(w0, w1)
    w1.producer.hold = True
    assert claims(w1) == []
    assert "resent" in w1.kinds("t")
    assert claims(w0) == ["t"]
    starts(w0)
    accepted(w0)
    produced(w0)
    produced(w1)
    lying = [record for record in stage.lying_in(stage.topics.outcomes) if HEADER_MARKER not in record.headers]
    states = [decode_outcome(record.value).state for record in lying]
    assert State.SUCCESS in states
    assert states[-1] is State.SCHEDULED, "the end is not the last word in Kafka"
    end = stage.record("t")
    stage.ledger.wipe()
    rebuilt(stage, w0, w1)
    assert (stage.record("t").shown, stage.record("t").fence) == (State.SUCCESS, end.fence)
    assert {outcome.fence for outcome in stage.ends("t")} == {end.fence}


# -- a ledger that was wiped, or lost writes ---------------------------------------------------------------------------


def accepted_and_taken(stage: Stage) -> tuple[Player, Player]:
    """An outcome is accepted and not in Kafka, and its partition goes from slow w0 to w1."""
    stage.publish("t")
    w0, w1 = joins(stage, "w0"), joins(stage, "w1")
    claims(w0)
    starts(w0)
    accepted(w0)
    taken(w0, w1)
    return w0, w1


def test_what_was_accepted_before_a_wipe_arrives_in_kafka_before_anybody_claims() -> None:
    stage = opened()
    w0, w1 = accepted_and_taken(stage)
    stage.ledger.wipe()
    assert claims(w1) == []
    produced(w0)
    starts(w1)
    finished(stage, w1, w0)
    assert w1.runner.history == [], "what has ended would run again"


def test_the_barrier_lasts_although_everybody_has_registered() -> None:
    stage = opened()
    w0, w1 = accepted_and_taken(stage)
    stage.ledger.wipe()
    registers(w0)
    registers(w1)
    w1.rebuilder.turn()
    stage.clock.turn(250)
    assert claims(w1) == []
    produced(w0)
    starts(w1)
    finished(stage, w1, w0)
    assert w1.runner.history == [], "what has ended would run again"


def test_what_was_accepted_before_a_wipe_and_written_after_it_does_not_count() -> None:
    stage = opened()
    w0, w1 = accepted_and_taken(stage)
    dead(w0, w1)
    stage.ledger.wipe()
    registers(w1)
    rebuilt(stage, w1)
    assert claims(w1) == ["t"]
    w0.producer.let_go()
    assert len(stage.outcomes("t")) == 1
    assert stage.ends("t") == [], "it is given out again, so it must not have ended"
    starts(w1)
    finished(stage, w1, w0)
    assert w1.runner.history == [("t", 1)]
    assert stage.ends("t")[0].fence == stage.record("t").fence


def test_a_fence_of_a_wiped_ledger_is_no_fence_of_the_next() -> None:
    stage = opened()
    stage.publish("t")
    w0, w1 = joins(stage, "w0"), joins(stage, "w1")
    claims(w0)
    starts(w0)
    before = stage.record("t").fence
    taken(w0, w1)
    stage.ledger.wipe()
    rebuilt(stage, w1)
    assert claims(w1) == ["t"]
    assert stage.record("t").fence.rpartition(".")[2] == before.rpartition(".")[2], "both are the first of their life"
    beats(w0)
    accepted(w0)
    assert "refused" in w0.kinds("t")
    finished(stage, w1, w0)
    assert w1.runner.history == [("t", 1)]


def test_what_an_incarnation_claimed_that_has_ended_is_not_registered() -> None:
    stage = opened()
    stage.publish("t")
    w0, w1 = joins(stage, "w0"), joins(stage, "w1")
    claims(w0)
    starts(w0)
    taken(w0, w1)
    dead(w0, w1)
    assert claims(w1) == ["t"]
    reborn(w0)
    stage.ledger.wipe()
    registers(w0)
    assert stage.ledger.records(["t"]) == [None], "it was given to another"
    registers(w1)
    rebuilt(stage, w1, w0)
    accepted(w0)
    assert "refused" in w0.kinds("t")
    finished(stage, w1, w0)
    assert w1.runner.history == [("t", 2)]


def test_a_ledger_that_lost_its_last_write_is_not_trusted() -> None:
    stage, w0 = one_runs()
    kept = stage.ledger.snapshot()
    accepted(w0)
    assert stage.record("t").status is State.SUCCESS
    stage.ledger.roll_back(kept)
    assert stage.record("t").status is State.PROCESSING
    produced(w0)
    assert "waiting_for_ledger" in w0.kinds()
    finished(stage, w0)
    assert w0.runner.history == [("t", 1)]


def test_an_end_is_not_shown_before_kafka_has_it() -> None:
    stage = opened()
    stage.publish("t", max_attempts=2)
    w0, w1 = joins(stage, "w0"), joins(stage, "w1")
    claims(w0)
    starts(w0)
    accepted(w0)
    assert stage.record("t").shown is State.PROCESSING, "it can still end in another way"
    w0.crash()
    dead(w0, w1)
    stage.ledger.wipe()
    registers(w1)
    rebuilt(stage, w1)
    assert claims(w1) == ["t"]
    starts(w1)
    accepted(w1, Ending.RAISED, after_s=5.0)
    produced(w1)
    w1.schedule(2)
    lives_for(w1, 5)
    w1.schedule(2)  # fires
    assert claims(w1) == ["t"]
    starts(w1)
    accepted(w1, Ending.RAISED)
    assert stage.record("t").shown is State.PROCESSING
    finished(stage, w1, end=State.FAILED)


# -- records that expire -----------------------------------------------------------------------------------------------


def test_what_has_ended_and_expired_is_not_given_out_again() -> None:
    stage = opened(2)
    stage.publish("t", queued_at_ms=stage.clock.now_ms())
    w0, w1 = joins(stage, "w0"), joins(stage, "w1")
    stage.publish("t", partition=1, queued_at_ms=stage.clock.now_ms())  # again with the same id
    claims(w0)
    starts(w0)
    accepted(w0)
    produced(w0)
    stage.clock.turn((DAY_S + 1) * 1000)
    assert stage.ledger.records(["t"]) == [None]
    reborn(w1)
    assert claims(w1) == []
    beats(w0)
    finished(stage, w1, w0)
    assert w1.runner.history == []


def test_what_has_not_ended_does_not_expire() -> None:
    stage = opened()
    stage.ledger._ttl_ms = 45_000
    stage.publish("t")
    w0 = joins(stage, "w0")
    with small_window():
        claims(w0)
        starts(w0)
        copied_to_the_tail(w0)
        lives_for(w0, 60)
        assert claims(w0) == []
        assert "elsewhere" in w0.kinds("t")
        starts(w0)
        assert w0.runner.history == [("t", 1)], "no fault, and no second run"
        finished(stage, w0)


def test_a_late_write_of_a_submit_brings_nothing_back() -> None:
    stage = opened()
    publisher = Publisher(stage.broker, stage.ledger, Layout(), 1 << 20, 0)
    add = registry_of("add").get("add")
    assert add is not None
    call = Call("add", b"[1]", b"{}", Options(queue="q", task_id="t"))
    group = publisher._send([Sent(*publisher._load([call]))])
    w0 = joins(stage, "w0")
    claims(w0)
    starts(w0)
    accepted(w0)
    produced(w0)
    commits(w0)
    assert stage.committed() == 1
    stage.clock.turn((DAY_S + 1) * 1000)
    assert stage.ledger.records(["t"]) == [None]
    group.at_mono -= 100.0
    publisher._finish(group)
    assert stage.ledger.records(["t"]) == [None], "it would be QUEUED for ever, and it has ended"
