"""Retries and snoozes that wait in `Q.delayed`, and long tasks that leave the head of their partition."""

import pytest
from stage import Player, Stage

from yadtq.attempt import Ending
from yadtq.broker import Message, Record
from yadtq.codec import decode, encode
from yadtq.delayed import due, read_key
from yadtq.engine import LONG_S
from yadtq.intake import WINDOW
from yadtq.ledger import NewTask
from yadtq.settings import Order
from yadtq.states import State


def end_all(worker: Player, ending: Ending, after_s: float | None = None) -> None:
    worker.turn(2)
    worker.runner.begin()
    for number in list(worker.runner.running):
        worker.runner.end_one(number, ending, after_s=after_s)
    worker.turn(4)


def waiting(stage: Stage) -> list[Record]:
    return stage.lying_in(stage.topics.delayed)


def fire(stage: Stage) -> None:
    """What a scheduler does with the last waiting record."""
    stage.broker.append(due(waiting(stage)[-1], stage.topics, 0))


@pytest.fixture
def worker(stage: Stage) -> Player:
    return stage.player(order="unordered")


def test_a_retry_that_waits_long_goes_to_the_delayed_topic_and_frees_its_partition(
    stage: Stage, worker: Player
) -> None:
    stage.publish("a", max_attempts=2)
    end_all(worker, Ending.RAISED, after_s=60)
    (record,) = waiting(stage)
    envelope = decode(record.value)
    assert record.key is not None
    assert read_key(record.key) == ("a", 1)
    assert (envelope.generation, envelope.task_tries, envelope.not_before_ms) == (1, 1, stage.clock.now_ms() + 60_000)
    assert (stage.record("a").shown, stage.record("a").generation) == (State.SCHEDULED, 1)
    assert [outcome.state for outcome in stage.outcomes("a")] == [State.SCHEDULED]
    assert worker.engine.idle
    stage.clock.turn(1_000)
    worker.turn()
    assert stage.committed() == 1
    fire(stage)
    end_all(worker, Ending.RAISED, after_s=60)
    assert stage.record("a").shown is State.FAILED, "the second failure is the last"
    assert [outcome.attempts for outcome in stage.outcomes("a")] == [1, 2]


def test_a_snooze_uses_up_no_attempt(stage: Stage, worker: Player) -> None:
    stage.publish("a", max_attempts=1)
    for generation in range(1, 5):
        end_all(worker, Ending.SNOOZED, after_s=30)
        assert stage.record("a").generation == generation
        fire(stage)
    end_all(worker, Ending.RETURNED)
    assert (stage.record("a").shown, stage.record("a").failures, stage.record("a").attempts) == (State.SUCCESS, 0, 5)
    assert worker.kinds("a").count("snoozed") == 4


@pytest.mark.parametrize("order", ["key", "partition"])
def test_where_an_order_is_kept_a_retry_waits_in_place_and_holds_its_lane(stage: Stage, order: Order) -> None:
    worker = stage.player(order=order)
    for task_id in ("a", "b"):
        envelope = encode(decode(b'{"task_id": "%s", "task_type": "add", "task_args": [1]}' % task_id.encode()))
        stage.broker.append(Message(stage.topics.tasks, envelope, b"k", 0))
    end_all(worker, Ending.RAISED, after_s=60)
    assert waiting(stage) == []
    worker.runner.begin()
    assert worker.runner.history == [("a", 1)], "b waits behind a"
    for _ in range(20):
        stage.clock.turn(3_000)
        worker.heartbeat.turn()
        worker.turn()
    worker.work()
    assert worker.runner.history == [("a", 1), ("a", 2), ("b", 1)]


def test_what_has_another_key_or_none_waits_for_nobody(stage: Stage) -> None:
    worker = stage.player(order="key")
    for task_id, key in (("a", b"k"), ("b", b"k"), ("c", b"l"), ("d", None), ("e", None)):
        envelope = encode(decode(b'{"task_id": "%s", "task_type": "add"}' % task_id.encode()))
        stage.broker.append(Message(stage.topics.tasks, envelope, key, 0))
    worker.turn(2)
    worker.runner.begin()
    assert [task_id for task_id, _ in worker.runner.history] == ["a", "c", "d", "e"]
    worker.runner.end()
    worker.turn(3)
    worker.runner.begin()
    assert worker.runner.history[-1] == ("b", 1)


def test_a_retry_that_was_accepted_and_perhaps_never_written_is_written_again(stage: Stage) -> None:
    """C4: the counterexample of `done_only`: accepted, crash, and the heir takes it for done."""
    dying = stage.player("dying", order="unordered")
    stage.publish("a")
    dying.turn(2)
    dying.runner.begin()
    dying.producer.hold = True
    dying.runner.end_one(next(iter(dying.runner.running)), Ending.RAISED, after_s=60)
    dying.turn(2)
    assert stage.record("a").status is State.SCHEDULED
    dying.crash()
    stage.lease_over()
    heir = stage.player("heir", order="unordered")
    heir.work()
    assert heir.runner.history == []
    (record,) = waiting(stage)
    assert decode(record.value).not_before_ms == stage.record("a").not_before_ms
    assert "resent" in heir.kinds("a")
    stage.clock.turn(1_000)
    heir.turn()
    assert stage.committed() == 1
    fire(stage)
    heir.work()
    assert (stage.record("a").shown, stage.record("a").attempts) == (State.SUCCESS, 2)


def test_an_envelope_of_an_older_generation_is_closed_and_runs_nothing(stage: Stage, worker: Player) -> None:
    stage.publish("a", max_attempts=3)
    end_all(worker, Ending.RAISED, after_s=60)
    fire(stage)
    worker.work()
    assert stage.record("a").shown is State.SUCCESS
    runs = list(worker.runner.history)
    stage.ledger.queued([NewTask("b", "add", stage.topics.tasks, 0, 9, 0)])
    stage.publish("a")
    worker.work()
    assert worker.runner.history == runs


def test_a_stale_envelope_does_not_disturb_the_run_of_its_retry(stage: Stage, worker: Player) -> None:
    stage.publish("a", max_attempts=3)
    end_all(worker, Ending.RAISED, after_s=60)
    fire(stage)
    worker.turn(2)
    worker.runner.begin()
    stage.publish("a")  # generation 0 once more
    worker.turn(3)
    assert "stale" in worker.kinds("a")
    worker.runner.end()
    worker.turn(4)
    assert stage.record("a").shown is State.SUCCESS


def fill(stage: Stage, count: int) -> None:
    stage.publish("long")
    stage.publish(*(f"t{number}" for number in range(count)))


def test_a_long_task_at_the_head_leaves_its_place_when_it_holds_up_the_window(stage: Stage) -> None:
    worker = stage.player(order="unordered", slots=1)
    fill(stage, WINDOW)
    worker.turn(3)
    worker.runner.begin()
    assert worker.runner.history == [("long", 1)]
    for _ in range(int(LONG_S) // 3 + 4):
        stage.clock.turn(3_000)
        worker.turn()
        worker.heartbeat.turn()
    assert worker.kinds("long").count("handed_off") == 1, "once"
    assert stage.committed() == 1, "the head is closed, and the copy carries the task"
    copy = stage.lying_in(stage.topics.tasks)[-1]
    assert decode(copy.value).task_id == "long"
    worker.runner.end()
    worker.work(WINDOW + 40)
    assert worker.runner.history.count(("long", 1)) == 1, "the copy ran nothing"
    assert stage.record("long").shown is State.SUCCESS
    stage.clock.turn(1_000)
    worker.work(3)
    assert stage.committed() == WINDOW + 2


def test_a_long_task_dies_after_the_hand_off_and_its_copy_runs(stage: Stage) -> None:
    dying = stage.player("dying", order="unordered", slots=1)
    fill(stage, WINDOW)
    dying.turn(3)
    dying.runner.begin()
    for _ in range(int(LONG_S) // 3 + 4):
        stage.clock.turn(3_000)
        dying.turn()
        dying.heartbeat.turn()
    assert stage.committed() == 1
    dying.crash()
    stage.lease_over()
    heir = stage.player("heir", order="unordered", slots=100)
    for _ in range(WINDOW // 20):
        heir.work(3)
        heir.heartbeat.turn()
    assert stage.record("long").shown is State.SUCCESS
    assert ("long", 2) in heir.runner.history


def test_a_record_that_only_waits_for_another_worker_is_handed_off_too(stage: Stage) -> None:
    owner = stage.player("owner", order="unordered", slots=1)
    stage.publish("long")
    owner.turn(2)
    owner.runner.begin()
    stage.publish(*(f"t{number}" for number in range(WINDOW)))
    other = stage.player("other", order="unordered", slots=1)
    stage.broker.members[stage.topics.tasks, "workers"].remove(owner.consumer)
    owner.consumer.positions.clear()
    for assignment in list(owner.intake.assignments.values()):
        owner.intake.lost([assignment.where])
    for _ in range(int(LONG_S) // 3 + 2):
        stage.clock.turn(3_000)
        for worker in (owner, other):
            worker.heartbeat.turn()
        other.turn(2)
        owner.engine.step(0.0)
    assert "handed_off" in other.kinds("long")
    owner.runner.end()
    owner.engine.step(0.0)
    owner.engine.step(0.0)
    owner.engine.step(0.0)
    assert stage.record("long").shown is State.SUCCESS
    assert all(task_id != "long" for task_id, _ in other.runner.history)


@pytest.mark.parametrize("order", ["key", "partition"])
def test_where_an_order_is_kept_nothing_leaves_its_place(stage: Stage, order: Order) -> None:
    worker = stage.player(order=order, slots=1)
    fill(stage, WINDOW)
    worker.turn(3)
    worker.runner.begin()
    for _ in range(int(LONG_S)):
        stage.clock.turn(3_000)
        worker.turn()
        worker.heartbeat.turn()
    assert "handed_off" not in worker.kinds()


def test_a_copy_that_kafka_does_not_acknowledge_keeps_the_head_open(stage: Stage) -> None:
    """S5: the counterexample of `copy_after_close`."""
    worker = stage.player(order="unordered", slots=1)
    fill(stage, WINDOW)
    worker.turn(3)
    worker.runner.begin()
    worker.producer.hold = True
    for _ in range(int(LONG_S) // 3 + 4):
        stage.clock.turn(3_000)
        worker.turn()
        worker.heartbeat.turn()
    assert stage.committed() == 0
    worker.producer.let_go()
    worker.turn(3)
    stage.clock.turn(1_000)
    worker.turn()
    assert stage.committed() == 1
