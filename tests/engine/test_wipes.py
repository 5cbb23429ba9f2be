"""A ledger that was wiped: nothing is lost, nothing finished runs again, one end counts."""

import pytest
from aftermath import IDS, check, one_step, played
from stage import Player, Stage
from steps import opened

from yadtq.attempt import Ending
from yadtq.ledger import NewTask
from yadtq.states import State


@pytest.fixture
def stage() -> Stage:
    return opened()


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
@pytest.mark.parametrize("ending", [Ending.RETURNED, Ending.RAISED])
@pytest.mark.parametrize("wiped_at", range(1, 30))
def test_a_wipe_after_any_step_loses_nothing_and_runs_nothing_finished_again(
    stage: Stage, wiped_at: int, ending: Ending, dies: bool
) -> None:
    stage.publish(*IDS, max_attempts=2)
    one = stage.player("one", order="unordered", slots=2)
    for step in range(wiped_at):
        one_step(one, step, ending)
    over_before = {task_id for task_id in IDS if stage.ends(task_id)}
    running = {attempt.task_id for attempt in one.runner.in_hand}
    stage.ledger.wipe()
    heir = stage.player("heir", order="unordered")
    if dies:
        one.crash()
    started = len(one.runner.history)
    stage.barrier_over(*([heir] if dies else [heir, one]))
    played(stage, *([heir] if dies else [heir, one]))
    again = {task_id for task_id, _ in heir.runner.history + one.runner.history[started:]}
    assert not again & over_before, "what was over ran again"
    if not dies:
        assert not {task_id for task_id, _ in heir.runner.history} & running, "what runs was given out again"
    check(stage)
    assert "rebuilt" in heir.kinds() + one.kinds()


def test_the_failures_of_what_waits_in_place_outlive_the_ledger_with_their_worker(stage: Stage) -> None:
    """A retry in place has no envelope of its own that could carry them."""
    stage.publish("t")
    one = stage.player("one", order="partition")
    one.turn(2)
    for failures in (1, 2):
        one.runner.begin()
        one.runner.end(Ending.RAISED)
        one.turn(2)
        assert stage.record("t").failures == failures
        stage.ledger.wipe()
        stage.barrier_over(one)
    one.runner.begin()
    one.runner.end(Ending.RAISED)
    one.turn(3)
    assert [outcome.state for outcome in stage.ends("t")] == [State.FAILED]
    assert len(one.runner.history) == 3


def test_without_a_barrier_what_was_accepted_would_run_again(stage: Stage) -> None:
    """The model's `no_barrier`: accepted, moved to another worker, wiped, and not yet in Kafka."""
    slow, other = accepted_and_moved(stage)
    stage.ledger.wipe()
    other.turn(3)
    assert other.runner.history == []
    slow.producer.let_go()
    stage.barrier_over(slow, other)
    played(stage, other, slow)
    assert other.runner.history == []
    check(stage, ["t"])


def test_what_was_accepted_is_not_registered_and_what_runs_beside_it_is(stage: Stage) -> None:
    """The model's `register_first`: registered, it would be open again, and its own worker would wait for itself."""
    stage.publish("accepted", "runs")
    one = stage.player("one", order="unordered")
    one.turn(2)
    one.runner.begin()
    one.producer.hold = True
    one.runner.end_one(min(one.runner.running))
    one.turn(2)
    stage.ledger.wipe()
    stage.clock.turn(1_000)
    one.turn()
    assert stage.ledger.records(["accepted"]) == [None]
    assert stage.record("runs").status is State.PROCESSING
    one.rebuilds = False
    stage.barrier_over(one)
    one.rebuilder.turn()
    one.producer.let_go()
    played(stage, one)
    check(stage, ["accepted", "runs"])
    assert one.runner.history == [("accepted", 1), ("runs", 1), ("accepted", 1)]


def test_an_outcome_of_a_worker_that_missed_the_barrier_does_not_count(stage: Stage) -> None:
    """The model's `no_marker`: it stands behind the marker, and the task has been given out again."""
    slow, other = accepted_and_moved(stage)
    stage.ledger.wipe()
    stage.barrier_over(other)
    played(stage, other)
    assert other.runner.history == [("t", 1)]
    slow.producer.let_go()
    slow.heartbeat.turn()
    played(stage, slow, other)
    assert len({outcome.fence for outcome in stage.outcomes("t")}) == 2
    check(stage, ["t"])
    (end,) = {end.fence for end in stage.ends("t")}
    stage.ledger.wipe()
    stage.barrier_over(slow, other)
    assert stage.record("t").fence == end, "a second rebuild finds the same end"


def test_a_fence_of_the_life_before_is_never_right_by_chance(stage: Stage) -> None:
    """The model's `counter_fence`: both are the first claim of their life."""
    stage.publish("t")
    slow = stage.player("slow")
    slow.turn(2)
    slow.runner.begin()
    stage.ledger.wipe()
    other = stage.player("other")
    stage.broker.members[stage.topics.tasks, "workers"].remove(slow.consumer)  # slow hears of nothing
    slow.consumer.positions.clear()
    stage.barrier_over(other)
    other.runner.begin()
    slow.runner.end(Ending.RAISED)
    slow.engine.step(0.0)
    slow.engine.step(0.0)
    assert "refused" in slow.kinds("t")
    played(stage, other)
    assert stage.record("t").status is State.SUCCESS
    check(stage, ["t"])


def late(stage: Stage) -> Player:
    """A worker that runs a task and has not beaten for a minute."""
    stage.publish("t")
    slow = stage.player("slow")
    slow.turn(2)
    slow.runner.begin()
    stage.clock.turn(60_000)
    return slow


def test_what_an_earlier_incarnation_claimed_is_not_registered(stage: Stage) -> None:
    """The model's `register_old`: it was DEAD meanwhile, and its task somebody else's."""
    slow = late(stage)
    slow.heartbeat.turn()
    slow.heartbeat.turn()
    assert "reborn" in slow.kinds()
    stage.ledger.wipe()
    slow.heartbeat.turn()
    slow.engine.step(0.0)
    slow.turn()
    assert stage.ledger.records(["t"]) == [None]


def test_a_worker_whose_lease_may_be_over_beats_before_it_registers(stage: Stage) -> None:
    """Where the heartbeats are there still, the beat tells it that its attempts are somebody else's."""
    slow = late(stage)
    stage.ledger.wipe()
    slow.turn(2)
    assert "waiting_for_ledger" in slow.kinds()
    assert stage.ledger.records(["t"]) == [None]
    slow.heartbeat.turn()
    stage.clock.turn(100)
    slow.turn()
    assert stage.record("t").status is State.PROCESSING


def test_who_only_runs_things_registers_too_and_its_end_counts_in_the_new_life(stage: Stage) -> None:
    stage.publish("t")
    one, other = stage.player("one", slots=1), stage.player("other")
    one.turn(3)
    one.runner.begin()
    old = stage.record("t").fence
    stage.ledger.wipe()
    stage.barrier_over(one, other)
    assert (stage.record("t").status, stage.record("t").fence) == (State.PROCESSING, old)
    played(stage, one, other)
    assert [end.attempts for end in stage.ends("t")] == [1]
    assert len(stage.outcomes("t")) == 1
    assert stage.ends("t")[0].fence > old, "an old fence would stand behind the marker"
    assert other.runner.history == []
    check(stage, ["t"])


def test_a_late_queued_write_of_a_submit_hides_no_end_and_no_retry(stage: Stage) -> None:
    """The model's `queued_blind`, within the minute in which it is made: Kafka's outcomes go over it."""
    stage.publish("done", "waits", max_attempts=3)
    one = stage.player("one", order="unordered")
    one.turn(3)
    one.runner.begin()
    ends = {attempt.task_id: number for number, attempt in one.runner.running.items()}
    one.runner.end_one(ends["done"])
    one.runner.end_one(ends["waits"], Ending.RAISED, after_s=60.0)
    one.turn(4)
    stage.ledger.wipe()
    stage.ledger.queued([NewTask(name, "add", stage.topics.tasks, 0, 0, 1) for name in ("done", "waits")])
    stage.barrier_over(one)
    assert stage.record("done").final
    waits = stage.record("waits")
    assert (waits.status, waits.generation, waits.failures, waits.attempts) == (State.SCHEDULED, 1, 1, 1)
    assert waits.not_before_ms > 0


def accepted_and_moved(stage: Stage) -> tuple[Player, Player]:
    """Slow's task is accepted and not in Kafka, and its partition went to another."""
    stage.publish("t")
    slow = stage.player("slow")
    slow.turn(2)
    slow.runner.begin()
    slow.producer.hold = True
    slow.runner.end()
    slow.turn(2)
    stage.broker.members[stage.topics.tasks, "workers"].remove(slow.consumer)
    slow.consumer.positions.clear()
    return slow, stage.player("other")
