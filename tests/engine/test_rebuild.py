"""A ledger that was wiped, lost writes, or forgot: nothing is lost, nothing finished runs again, one end counts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import Mock

import pytest
from stage import Player, Stage

from yadtq.attempt import Ending
from yadtq.broker import Message
from yadtq.codec import Marker, OutcomeRecord, encode
from yadtq.errors import BrokerUnavailable
from yadtq.layout import HEADER_MARKER
from yadtq.ledger import Errand, NewTask
from yadtq.ledger.memory import MemoryLedger
from yadtq.states import State

IDS = [f"t{number}" for number in range(4)]


def played(stage: Stage, *players: Player, rounds: int = 30) -> None:
    """Everybody works to the end; time passes, and what waits for a time comes due."""
    for _ in range(rounds):
        stage.clock.turn(400)
        for player in players:
            player.heartbeat.turn()
            player.turn()
            player.runner.begin()
            player.runner.end()
            player.turn(2)
        due(stage)


def due(stage: Stage) -> None:
    """Bring what waits in `Q.delayed` to the queue, as its scheduler does: once each."""
    for record in stage.lying_in(stage.topics.delayed)[stage.fired :]:
        stage.fired += 1
        stage.publish_bytes(record.value)


@pytest.fixture
def stage() -> Stage:
    """A queue that has been open: its outcomes begin with a marker."""
    stage = Stage(opened=False)
    opener = stage.player("opener")
    assert opener.rebuilder.turn()
    opener.crash()
    return stage


def check(stage: Stage, ids: Sequence[str] = IDS) -> None:
    for task_id in ids:
        assert len({end.fence for end in stage.ends(task_id)}) == 1, f"{task_id}: {stage.outcomes(task_id)}"
        assert stage.record(task_id).final
    assert stage.committed() == len(stage.lying_in(stage.topics.tasks))


# -- wipes -------------------------------------------------------------------------------------------------------------


def one_step(worker: Player, step: int, ending: Ending) -> None:
    moves: list[Callable[[], object]] = [
        lambda: worker.intake.turn(worker.consumer),
        lambda: worker.engine.step(0.0),
        worker.runner.begin,
        lambda: worker.engine.step(0.0),
        lambda: worker.runner.end(ending),
        lambda: worker.stage.clock.turn(300),
    ]
    moves[step % len(moves)]()


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


def test_what_an_earlier_incarnation_claimed_is_not_registered(stage: Stage) -> None:
    """The model's `register_old`: it was DEAD meanwhile, and its task somebody else's."""
    stage.publish("t")
    slow = stage.player("slow")
    slow.turn(2)
    slow.runner.begin()
    stage.clock.turn(60_000)
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
    stage.publish("t")
    slow = stage.player("slow")
    slow.turn(2)
    slow.runner.begin()
    stage.clock.turn(60_000)
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


# -- lost writes, forgotten offsets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_at", [0, 2, 4, 6, 9])
@pytest.mark.parametrize("lost_at", [3, 5, 8, 12, 20])
def test_a_ledger_that_lost_writes_is_noticed_and_read_in(stage: Stage, kept_at: int, lost_at: int) -> None:
    stage.publish(*IDS)
    one, other = stage.player("one", order="unordered", slots=2), stage.player("other", order="unordered")
    kept = stage.ledger.snapshot()
    for step in range(max(kept_at, lost_at) + 1):
        if step == kept_at:
            kept = stage.ledger.snapshot()
        one_step(one, step, Ending.RETURNED)
    over_before = {task_id for task_id in IDS if stage.ends(task_id)}
    stage.ledger.roll_back(kept)
    started = len(one.runner.history)
    stage.barrier_over(one, other)
    played(stage, one, other)
    again = {task_id for task_id, _ in other.runner.history + one.runner.history[started:]}
    assert not again & over_before
    check(stage)


def test_a_ledger_that_lost_nothing_goes_on_at_once(stage: Stage) -> None:
    one = stage.player("one")
    stage.publish("t")
    one.work(2)
    stage.ledger.down = True
    stage.clock.turn(2_000)
    one.turn()
    stage.ledger.down = False
    stage.ledger.roll_back(stage.ledger.snapshot())
    stage.clock.turn(1_000)
    stage.publish("u")
    one.work(2)
    assert stage.record("u").final
    assert "waiting_for_ledger" not in one.kinds()


def test_what_the_group_and_the_ledger_forgot_is_read_in_before_it_could_run(stage: Stage) -> None:
    """R5, and the model's `ttl_blind`: the records expired, and the offsets are gone."""
    stage.publish(*IDS, queued_at_ms=1)
    one = stage.player("one")
    one.work(10)
    played(stage, one, rounds=12)
    check(stage)
    one.crash()
    stage.clock.turn(90_000_000)
    stage.broker.offsets.clear()
    assert stage.ledger.records(IDS) == [None] * 4
    heir = stage.player("heir")
    epoch = stage.ledger.take(stage.topics.tasks, "nobody", 0)
    stage.ledger.drop(stage.topics.tasks, "nobody")
    assert epoch is Errand.READ, "the life goes on"
    heir.rebuilds = False
    heir.turn(3)
    assert heir.woken
    assert heir.runner.history == []
    heir.rebuilds = True
    played(stage, heir, rounds=12)
    assert heir.runner.history == []
    assert "outcomes_read" in heir.kinds()
    assert "rebuilt" not in heir.kinds()
    check(stage)


def test_what_lay_there_at_the_assignment_may_have_ended_whatever_the_clocks_say(stage: Stage) -> None:
    """R5: the submitter's clock is two hours ahead, so by their age these are young enough to have a record."""
    stage.publish(*IDS, queued_at_ms=stage.clock.now_ms() + 7_200_000)
    one = stage.player("one")
    one.work(10)
    played(stage, one, rounds=12)
    check(stage)
    one.crash()
    stage.clock.turn(90_000_000)
    stage.broker.offsets.clear()
    assert stage.ledger.records(IDS) == [None] * 4
    heir = stage.player("heir")
    played(stage, heir, rounds=12)
    assert heir.runner.history == []
    assert "outcomes_read" in heir.kinds()
    check(stage)


@pytest.mark.parametrize("silent", [False, True])
def test_what_comes_after_the_assignment_is_read_in_first_only_where_nobody_knows_that_it_did(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    stage.clock.turn(60_000_000)  # the reading of the opening counts no more
    stage.publish("before", queued_at_ms=stage.clock.now_ms())
    with monkeypatch.context() as patch:
        if silent:
            patch.setattr(stage.broker, "end_offsets", Mock(side_effect=BrokerUnavailable("Kafka does not answer")))
        worker = stage.player("worker")
        worker.rebuilds = False
        worker.intake.turn(worker.consumer)
    worker.turn(3)
    assert worker.woken, "what was there before may have ended"
    worker.rebuilds = True
    played(stage, worker, rounds=12)
    check(stage, ["before"])
    stage.clock.turn(60_000_000)  # nor does this one
    worker.heartbeat.turn()
    worker.turn()
    worker.heartbeat.turn()
    worker.rebuilds = worker.woken = False
    stage.publish("after", queued_at_ms=stage.clock.now_ms())
    worker.work(3)
    assert worker.woken == silent
    assert (("after", 1) in worker.runner.history) != silent


def test_a_rebuild_brings_back_what_is_young_and_the_old_is_read_when_it_is_asked_for(stage: Stage) -> None:
    """What has ended a day ago fills no memory, and does not run again either."""
    stage.publish(*IDS, queued_at_ms=1)
    one = stage.player("one")
    one.work(10)
    stage.clock.turn(90_000_000)
    one.heartbeat.turn()
    one.turn()
    one.heartbeat.turn()
    stage.publish("young", queued_at_ms=stage.clock.now_ms())
    one.work(10)
    assert stage.record("young").final
    one.crash()
    stage.ledger.wipe()
    stage.broker.offsets.clear()
    heir = stage.player("heir")
    heir.rebuilder._least_ms = 0
    heir.rebuilder.turn()
    assert stage.record("young").final
    assert stage.ledger.records(IDS) == [None] * 4
    heir.rebuilder.turn()
    assert stage.ledger.records(IDS) == [None] * 4, "nobody has asked for them"
    heir.work(10)
    assert heir.runner.history == []
    assert all(stage.record(task_id).final for task_id in IDS)


# -- who reads, and when -----------------------------------------------------------------------------------------------


def test_a_new_queue_opens_without_a_barrier() -> None:
    stage = Stage(opened=False)
    stage.publish("t")
    one = stage.player("one")
    one.turn()
    stage.clock.turn(100)
    one.work(3)
    assert stage.record("t").final
    assert "rebuilt" not in one.kinds()


def test_a_queue_that_was_open_once_is_not_new(stage: Stage) -> None:
    stage.ledger.wipe()
    one = stage.player("one")
    assert one.rebuilder.turn()
    assert stage.ledger.take(stage.topics.tasks, "x", 1) is Errand.EARLY


class Dies(Exception):
    """The process is gone."""


@contextmanager
def dies_at(point: str, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let whoever rebuilds die at this step: it drops nothing and says nothing."""

    def die(*_: object, **__: object) -> None:
        raise Dies

    real_restore: Callable[..., int | None] = ledger.restore
    restores = 0

    def restore(topic: str, token: str, outcomes: Sequence[OutcomeRecord], *, absent_only: bool = False) -> int | None:
        nonlocal restores
        restores += 1
        half = outcomes[: len(outcomes) // 2]
        answer = real_restore(topic, token, half if point == "restore" else outcomes, absent_only=absent_only)
        if point == "restore" or (point == "markers" and restores == 2):
            die()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "drop", lambda *_: None)
        patch.setattr(ledger, "restore", restore)
        if point == "lock":
            patch.setattr(ledger, "restore", die)
        if point in ("allot", "open"):
            patch.setattr(ledger, point, die)
        yield


@pytest.mark.parametrize("point", ["lock", "restore", "allot", "markers", "open"])
def test_a_rebuilder_that_dies_at_any_step_is_followed_by_another(
    stage: Stage, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.publish(*IDS)
    first = stage.player("first")
    first.work(10)
    first.crash()
    done = {end.fence for task_id in IDS for end in stage.ends(task_id)}
    stage.publish("t")
    stage.ledger.wipe()
    dying = stage.player("dying")
    dying.rebuilds = False
    for _ in range(50):
        stage.clock.turn(250)
        dying.heartbeat.turn()
        dying.turn()
    with dies_at(point, stage.ledger, monkeypatch), pytest.raises(Dies):
        dying.rebuilder.turn()
    dying.crash()
    heir = stage.player("heir")
    heir.turn(3)
    assert heir.runner.history == [], "the lock is not free yet"
    stage.barrier_over(heir)
    stage.barrier_over(heir)
    played(stage, heir)
    assert {task_id for task_id, _ in heir.runner.history} == {"t"}
    assert {end.fence for task_id in IDS for end in stage.ends(task_id)} == done
    check(stage, [*IDS, "t"])


def test_a_rival_that_lost_the_lock_gives_up_and_its_late_marker_does_no_harm(stage: Stage) -> None:
    topic = stage.topics.tasks
    stage.publish("t")
    one = stage.player("one")
    one.work(2)
    stage.ledger.wipe()
    for _ in range(50):
        stage.clock.turn(250)
        one.rebuilds = False
        one.heartbeat.turn()
        one.turn()
    assert stage.ledger.take(topic, "rival", 0) is Errand.REBUILD
    late = stage.ledger.allot(topic, "rival", 0)
    assert late is not None
    stage.clock.turn(15_001)
    assert one.rebuilder.turn()
    assert stage.ledger.take(topic, "x", 0) is Errand.NOTHING
    assert stage.ledger.restore(topic, "rival", []) is None
    assert stage.ledger.allot(topic, "rival", 0) is None
    assert not stage.ledger.open(topic, "rival", late, 0)
    marker = Message(stage.topics.outcomes, encode(Marker(epoch=late)), None, 0, {HEADER_MARKER: b"1"})
    stage.broker.append(marker)
    stage.publish("u")
    one.work(2)
    played(stage, one)
    assert len(one.runner.history) == 2
    check(stage, ["t", "u"])


def test_a_ledger_that_lost_what_was_restored_does_not_open(stage: Stage) -> None:
    topic = stage.topics.tasks
    stage.ledger.wipe()
    assert stage.ledger.take(topic, "a", 0) is Errand.REBUILD
    epoch = stage.ledger.allot(topic, "a", 0)
    assert epoch is not None
    kept = stage.ledger.snapshot()
    assert stage.ledger.restore(topic, "a", []) == 0
    stage.ledger.roll_back(kept)
    assert not stage.ledger.open(topic, "a", epoch, 1)


def test_an_epoch_is_higher_than_all_that_stand_in_kafka_whatever_the_clock_says(stage: Stage) -> None:
    stage.broker.append(Message(stage.topics.outcomes, encode(Marker(epoch=2**50)), None, 0, {HEADER_MARKER: b"1"}))
    stage.ledger.wipe()
    one = stage.player("one")
    stage.barrier_over(one)
    stage.publish("t")
    one.work(2)
    assert stage.record("t").fence.startswith(f"{2**50 + 1}.")


def test_records_that_nobody_can_read_are_counted_and_passed_over(stage: Stage) -> None:
    stage.broker.append(Message(stage.topics.outcomes, b"?", b"k", 0))
    stage.broker.append(Message(stage.topics.outcomes, b"?", None, 0, {HEADER_MARKER: b"1"}))
    stage.ledger.wipe()
    one = stage.player("one")
    stage.barrier_over(one)
    (told,) = [event.detail for event in one.events if event.kind == "rebuilt"]
    assert "2 unreadable" in told


def test_kafka_away_in_a_rebuild_gives_the_errand_back(stage: Stage) -> None:
    stage.ledger.wipe()
    one = stage.player("one")
    one.rebuilds = False
    stage.barrier_over(one)
    stage.broker.down = True
    assert not one.rebuilder.turn()
    stage.broker.down = False
    assert one.rebuilder.turn()
    assert stage.ledger.take(stage.topics.tasks, "x", 0) is Errand.NOTHING


def test_waiting_is_told_once(stage: Stage) -> None:
    one = stage.player("one")
    one.turn()
    stage.ledger.wipe()
    stage.barrier_over(one)
    assert one.kinds().count("waiting_for_ledger") == 1
