"""A ledger that lost writes or forgot, and who reads it in: nothing finished runs again, one end counts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import Mock

import pytest
from aftermath import IDS, check, one_step, played
from stage import Stage
from steps import opened

from yadtq.attempt import Ending
from yadtq.broker import Message
from yadtq.codec import Marker, OutcomeRecord, encode
from yadtq.errors import BrokerUnavailable
from yadtq.layout import HEADER_MARKER
from yadtq.ledger import Errand
from yadtq.ledger.memory import MemoryLedger


@pytest.fixture
def stage() -> Stage:
    return opened()


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


def all_end_and_are_forgotten(stage: Stage, queued_at_ms: int) -> None:
    """Their records expire, and the group forgets its offsets."""
    stage.publish(*IDS, queued_at_ms=queued_at_ms)
    one = stage.player("one")
    one.work(10)
    played(stage, one, rounds=12)
    check(stage)
    one.crash()
    stage.clock.turn(90_000_000)
    stage.broker.offsets.clear()
    assert stage.ledger.records(IDS) == [None] * 4


def test_what_the_group_and_the_ledger_forgot_is_read_in_before_it_could_run(stage: Stage) -> None:
    """R5, and the model's `ttl_blind`: the records expired, and the offsets are gone."""
    all_end_and_are_forgotten(stage, queued_at_ms=1)
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
    all_end_and_are_forgotten(stage, queued_at_ms=stage.clock.now_ms() + 7_200_000)
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
