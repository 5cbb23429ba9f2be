"""The scheduler and its index, wiped, ahead, behind or silent: nothing is lost, nothing fires twice."""

import pytest
from delays import fired, in_index, unburied
from stage import DELAYED_GROUP, Player, Stage

from opening import open_ledger
from yadtq.broker import Message, TopicPartition
from yadtq.delayed import tombstone
from yadtq.states import State


@pytest.fixture
def worker(stage: Stage) -> Player:
    return stage.player(order="unordered")


def test_a_wiped_index_is_read_again_from_the_start(stage: Stage, worker: Player) -> None:
    stage.delay("a", "b", "c", by_ms=5_000)
    stage.delay("gone", by_ms=100)
    worker.schedule(5)
    stage.clock.turn(1_000)
    worker.schedule(5)
    worker.work()
    assert fired(stage) == ["gone"]
    stage.ledger.wipe()
    worker.rebuilder._least_ms = 0
    for _ in range(6):
        stage.clock.turn(500)
        worker.schedule(3)
    assert in_index(stage) == 3
    assert all(stage.record(task_id).shown is State.SCHEDULED for task_id in "abc"), "they show themselves again"
    stage.clock.turn(1_000)
    worker.schedule(5)
    assert fired(stage) == ["gone", "a", "b", "c"], "what had fired did not fire again"


def test_nothing_fires_before_the_tombstones_behind_it_are_read(stage: Stage, worker: Player) -> None:
    """An index that is read anew meets the old records first, and their tombstones thousands of records later."""
    stage.delay("old", by_ms=10)
    names = [f"t{number}" for number in range(1_500)]
    stage.delay(*names, by_ms=60_000)
    stage.broker.append(tombstone(b"0:old", 0, stage.topics))
    stage.clock.turn(1_000)
    worker.schedule(10)
    assert fired(stage) == []
    assert in_index(stage) == 1_500


def test_a_successor_reads_on_where_the_index_ends(stage: Stage) -> None:
    first = stage.player("first", order="unordered")
    stage.delay("a", by_ms=5_000)
    first.schedule(5)
    first.crash()
    stage.delay("b", by_ms=5_000)
    second = stage.player("second", order="unordered")
    second.schedule(5)
    assert [second.kinds(task_id).count("scheduled") for task_id in "ab"] == [0, 1]
    stage.clock.turn(5_000)
    second.schedule(5)
    assert fired(stage) == ["a", "b"]


def test_what_a_ledger_without_epoch_is_asked_waits_and_the_ledger_is_opened(stage: Stage, worker: Player) -> None:
    worker.rebuilds = False
    stage.ledger.wipe()
    stage.delay("a", by_ms=1_000)
    for _ in range(10):
        stage.clock.turn(500)
        worker.schedule(3)
    assert worker.woken, "an idle engine would never ask"
    assert (fired(stage), in_index(stage)) == ([], 0)
    open_ledger(stage.ledger, stage.topics.tasks)
    stage.clock.turn(500)
    worker.schedule(5)
    assert fired(stage) == ["a"]


def test_a_ledger_that_does_not_answer_delays_and_loses_nothing(stage: Stage, worker: Player) -> None:
    stage.delay("a", by_ms=1_000)
    worker.schedule(3)
    stage.ledger.down = True
    stage.delay("b", by_ms=1_000)
    for _ in range(6):
        stage.clock.turn(500)
        worker.schedule(2)
    assert fired(stage) == []
    stage.ledger.down = False
    stage.clock.turn(500)
    worker.schedule(6)
    assert sorted(fired(stage)) == ["a", "b"]


def test_bytes_that_are_no_envelope_go_to_the_dead_letters_and_hold_up_nothing(stage: Stage, worker: Player) -> None:
    keys = [b"0:x", b"\xff\xfe", b"", None]
    for key, value in zip(keys, [b"{", b"\xff", b"[]", b"no"], strict=True):
        stage.broker.append(Message(stage.topics.delayed, value, key, 0))
    stage.delay("a", by_ms=10)
    strange = stage.lying_in(stage.topics.delayed)[-1]
    stage.broker.append(Message(stage.topics.delayed, strange.value, b"7:other", 0))
    stage.broker.append(Message(stage.topics.delayed, None, b"\xff", 0))
    worker.producer.fail_next = 2
    worker.schedule(4)
    stage.clock.turn(1_000)
    worker.schedule(6)
    assert fired(stage) == ["a"]
    values = [record.value for record in stage.lying_in(stage.topics.dead)]
    assert sorted(values) == sorted([b"{", b"\xff", b"[]", b"no", strange.value])
    assert worker.kinds().count("dead_lettered") == 5
    assert b"\xff\xfe" not in unburied(stage), "else each reading from the start would write its letter again"
    assert unburied(stage) >= {b"0:x", b"7:other"}, "a task may wait under such a key"


def test_dead_letters_that_kafka_never_takes_hold_up_nothing(stage: Stage, worker: Player) -> None:
    del stage.broker.logs[stage.topics.dead]
    stage.broker.append(Message(stage.topics.delayed, b"{", b"k", 0))
    stage.delay("a", by_ms=10)
    for _ in range(10):
        stage.clock.turn(100)
        worker.schedule(2)
    assert fired(stage) == ["a"]


def test_the_groups_commits_say_how_far_the_index_is(stage: Stage, worker: Player) -> None:
    stage.delay("a", "b", by_ms=60_000)
    worker.schedule(3)
    stage.clock.turn(1_000)
    worker.schedule(3)
    where = TopicPartition(stage.topics.delayed, 0)
    assert stage.broker.committed(stage.topics.delayed, DELAYED_GROUP)[where].offset == 2


def test_a_task_that_has_a_record_keeps_it(stage: Stage, worker: Player) -> None:
    stage.publish("a")
    worker.turn(2)
    worker.runner.begin()
    stage.delay("a", by_ms=60_000)
    worker.schedule(4)
    assert stage.record("a").status is State.PROCESSING


def test_one_that_may_have_ended_and_been_forgotten_gets_no_record(stage: Stage, worker: Player) -> None:
    """C8: its claim must find that there is none, and ask for the outcomes first."""
    stage.delay("a", by_ms=200_000_000)
    stage.clock.turn(100_000_000)
    stage.ledger.forget_reading(stage.topics.tasks)
    worker.schedule(4)
    assert in_index(stage) == 1
    assert stage.ledger.records(["a"]) == [None]
